"""The model server: one HTTP face over several engines.

It runs in the image of a model and imports nothing that only the operator needs.
"""
