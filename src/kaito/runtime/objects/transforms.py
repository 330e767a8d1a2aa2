"""What the cache does without: fields that are cut out of an object's bytes before it is stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from kaito.runtime.errors import UNDECODABLE, DecodeError

Transform = Callable[[bytes], bytes]
"""An object's JSON as the server sent it to the JSON that is kept. Raises DecodeError. Two that are equal do the same."""


class DropFields:
    """A transform that leaves out fields of objects, such as ``status.images``; equal where the fields are."""

    __slots__ = ("_paths",)

    def __init__(self, *paths: str) -> None:
        """``paths`` are names joined by dots; they lead through objects, not through lists."""
        for path in paths:
            if not path or not all(path.split(".")):
                raise ValueError(f"{path!r} is not the path of a field: use names joined by dots, as in status.images")
        self._paths = tuple(sorted(paths))

    def __call__(self, data: bytes) -> bytes:
        try:
            for path in self._paths:
                data = cut_field(data, path)
        except UNDECODABLE as error:
            raise DecodeError(f"not a Kubernetes object: {error}") from error
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DropFields) and self._paths == other._paths

    def __hash__(self) -> int:
        return hash(self._paths)

    def __repr__(self) -> str:
        return f"DropFields({', '.join(map(repr, self._paths))})"


def cut_field(data: bytes, path: str) -> bytes:
    """``data``, the JSON of an object, without the field at ``path``, cut out of the bytes where that is certain to be right.

    A JSON string cannot contain the searched bytes unescaped, so an occurrence is a key; only where the key occurs more
    than once, or with other white space, is the object decoded and encoded again. Raises ValueError for what is not JSON.
    """
    plan = _plan(path)
    if plan.quoted not in data:
        return data
    found = plan.decoder.decode(data)
    for _ in range(plan.depth):
        found = getattr(found, "part", None)
    raw = bytes(found or b"")
    return cut(data, path, raw) if raw else data


def cut(data: bytes, path: str, raw: bytes) -> bytes:
    """``cut_field`` of a field that is there and whose bytes are ``raw``."""
    needle = _plan(path).needle
    start = data.find(needle)
    value = start + len(needle)
    end = value + len(raw)
    if start < 0 or data.rfind(needle) != start or not data.startswith(raw, value):
        return _cut_decoded(data, path)
    if data[end : end + 1] == b",":
        return data[:start] + data[end + 1 :]
    if data[start - 1 : start] == b",":
        start -= 1
    return data[:start] + data[end:]


def _cut_decoded(data: bytes, path: str) -> bytes:
    *parents, name = path.split(".")
    document: dict[str, Any] = msgspec.json.decode(data)
    place = document
    for parent in parents:
        place = place[parent]
    del place[name]
    return msgspec.json.encode(document)


class _Plan(NamedTuple):
    decoder: msgspec.json.Decoder[Any]
    """Finds the field's bytes, ``depth`` times at the attribute ``part``."""
    depth: int
    quoted: bytes
    needle: bytes
    """How the field's key is written."""


@lru_cache
def _plan(path: str) -> _Plan:
    names = path.split(".")
    part: Any = msgspec.Raw
    default: Any = msgspec.Raw()
    for name in reversed(names):
        part = msgspec.defstruct("Part", [("part", part, default)], rename={"part": name}) | None
        default = None
    quoted = b'"%b"' % names[-1].encode()
    return _Plan(msgspec.json.Decoder(part), len(names), quoted, quoted + b":")
