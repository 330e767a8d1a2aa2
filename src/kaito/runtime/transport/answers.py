"""What a server's answers to writes mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from kaito.runtime.errors import UNDECODABLE, DecodeError, Invalid
from kaito.runtime.objects.resource import Resource

T = TypeVar("T")


class _Details(msgspec.Struct):
    uid: str = ""


class _Deleted(msgspec.Struct):
    details: _Details | None = None


class _Kind(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""


_KIND = msgspec.json.Decoder(_Kind)


def is_of(resource: Resource[Any], data: bytes) -> bool:
    """Whether an answer is an object of ``resource``. Raises what decoders raise."""
    found = _KIND.decode(data)
    return found.kind == resource.kind and found.api_version == resource.api_version


def test_failed(error: Invalid, patch: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bool:
    """Whether a JSON patch was refused because the object is not as its ``test`` operations expect.

    Answered 422 like a validation error, but without what names the object and its fields: a server that says why says so
    in a cause of its own, kube-apiserver does not.
    """
    if isinstance(patch, Mapping) or not any(operation.get("op") == "test" for operation in patch):
        return False
    if error.details.get("kind") or error.details.get("name"):
        return False
    return all("test failed" in cause.get("message", "") for cause in error.causes)


def decode(resource: Resource[T], data: bytes) -> T:
    """Raises DecodeError."""
    try:
        return resource.decode(data)
    except UNDECODABLE as error:  # pydantic's errors are ValueErrors, too
        raise DecodeError(f"the server's answer is not a {resource.kind}: {error}") from error


def deleted_uid(data: bytes) -> str:
    """The uid of what a deletion carried out at once, where the answer says it. Raises what decoders raise."""
    details = msgspec.json.decode(data, type=_Deleted).details
    return details.uid if details else ""
