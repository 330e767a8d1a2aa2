"""The API types of kaito: Workspace and Machine, their conditions, validation and CustomResourceDefinitions.

Everything here is pure: no I/O and no clock. Import from the modules; the package itself loads nothing.
"""
