"""The controllers of the operator, one package each. Every package has ``setup(manager, environ)``, which adds its
controllers to a manager; the entry points of the group ``kaito.controllers`` name these functions."""
