"""Directories as OCI images: ``push`` makes one of a directory, ``pull`` brings one back, both without a container runtime.

The images are real ones, which any registry takes and any kubelet runs or mounts: one layer with the directory under ``/data``,
and an index for amd64 and arm64. The same files give the same digest, wherever and whenever they are pushed.
"""

from __future__ import annotations

from kaito.oci.credentials import Keychain
from kaito.oci.errors import (
    ArchiveError,
    AuthError,
    CredentialsError,
    ImageNotFound,
    IntegrityError,
    OciError,
    ReferenceError,
    RegistryError,
)
from kaito.oci.reference import Reference
from kaito.oci.transfer import Pulled, Pushed, pull, push

__all__ = [
    "ArchiveError",
    "AuthError",
    "CredentialsError",
    "ImageNotFound",
    "IntegrityError",
    "Keychain",
    "OciError",
    "Pulled",
    "Pushed",
    "Reference",
    "ReferenceError",
    "RegistryError",
    "pull",
    "push",
]
