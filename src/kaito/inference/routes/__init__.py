"""The HTTP face of the model server."""

from kaito.inference.routes.app import application

__all__ = ["application"]
