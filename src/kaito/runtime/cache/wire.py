"""What a list or watch sends, read into objects: one pass over the bytes where they look as API servers write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import msgspec

from kaito.runtime.errors import UNDECODABLE, ApiError, DecodeError, InternalError
from kaito.runtime.objects.resource import Resource
from kaito.runtime.objects.stored import Header, Stored
from kaito.runtime.objects.transforms import Transform

T = TypeVar("T")

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Bookmark(msgspec.Struct):
    metadata: BookmarkMeta


class _WatchLine(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _PlainLine(msgspec.Struct, gc=False):
    object: Header


_LINE = msgspec.json.Decoder(_WatchLine)
_PLAIN_LINE = msgspec.json.Decoder(_PlainLine)
_PLAIN_FORMS = tuple((kind, b'{"type":"%b","object":' % kind.encode()) for kind in ("ADDED", "MODIFIED", "DELETED"))
"""How API servers write the events of objects."""
_BOOKMARK = msgspec.json.Decoder(_Bookmark)


@final
class WireReader(Generic[T]):
    """Reads one resource's objects and events."""

    __slots__ = ("_label", "_on_skipped", "_transform", "resource")

    def __init__(
        self, resource: Resource[T], transform: Transform | None, on_skipped: Callable[[DecodeError], None]
    ) -> None:
        """``on_skipped`` is told of objects that are left out, because they are not of the resource's kind."""
        self.resource = resource
        self._transform = transform
        self._on_skipped = on_skipped
        self._label = resource.group_resource

    def event(self, line: bytes) -> tuple[str, Stored[T] | None, BookmarkMeta | None]:
        """An event's type and its object, None for one that is left out, or a bookmark.

        Raises ApiError for an ERROR event, DecodeError.
        """
        if self._transform is None:
            for kind, form in _PLAIN_FORMS:
                if line.startswith(form) and line.endswith(b"}"):
                    try:
                        header = _PLAIN_LINE.decode(line).object
                        return kind, Stored(self.resource, line[len(form) : -1], header), None
                    except (*UNDECODABLE, DecodeError):
                        break  # the other way finds out what is wrong with it
        event = self._envelope(line)
        if event.type == "BOOKMARK":
            return event.type, None, self._bookmark(event)
        stored = self.object(bytes(event.object))
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            raise DecodeError(f"a watch event of the unknown type {event.type!r}")
        return event.type, stored, None

    def _envelope(self, line: bytes) -> _WatchLine:
        try:
            event = _LINE.decode(line)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object, type=dict[str, Any])
                raise ApiError.from_status(status, code=InternalError.code)
        except UNDECODABLE as error:
            raise DecodeError(f"the watch of {self._label} sent something that is not an event: {error}") from error
        return event

    def _bookmark(self, event: _WatchLine) -> BookmarkMeta:
        try:
            return _BOOKMARK.decode(event.object).metadata
        except UNDECODABLE as error:
            raise DecodeError(f"the watch of {self._label} sent a bookmark without a version: {error}") from error

    def written(self, data: bytes) -> Stored[T]:
        """An object, such as the answer to a write. Raises DecodeError."""
        return Stored(self.resource, data if self._transform is None else self._transform(data))

    def object(self, data: bytes) -> Stored[T] | None:
        """One object; None, counted and logged, for one that is not of this kind: it must not blind the informer."""
        try:
            return self.written(data)
        except DecodeError as error:
            self._on_skipped(error)
            return None
