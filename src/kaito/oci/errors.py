"""Errors of pushing and pulling. Their words are for the person who named the image.

::

    OciError
    ├── ReferenceError      the name is not one of an image
    ├── CredentialsError    a Docker configuration cannot be used
    ├── AuthError           the registry refuses: 401, 403
    ├── ImageNotFound       the registry does not have it
    ├── RegistryError       the registry or the way to it failed, as often as it was tried
    ├── IntegrityError      what came is not what its digest says
    └── ArchiveError        a layer, or a directory, with something in it that cannot be taken over
"""

from __future__ import annotations


class OciError(Exception):
    """Base of every error that this package raises on purpose."""


class ReferenceError(OciError):
    """The name is not one of an image."""


class CredentialsError(OciError):
    """A Docker configuration cannot be used."""


class AuthError(OciError):
    """The registry refuses: 401, 403."""


class ImageNotFound(OciError):
    """The registry does not have it."""


class RegistryError(OciError):
    """The registry or the way to it failed, as often as it was tried."""


class IntegrityError(OciError):
    """What came is not what its digest says."""


class ArchiveError(OciError):
    """A layer, or a directory, with something in it that cannot be taken over."""
