"""Pure builders of the objects that a Workspace asks for.

A value of None in a built manifest means that the field belongs to kaito and must be absent: ``ownership.present``
leaves such fields out of what is created, ``ownership.difference`` removes them from what exists.
"""
