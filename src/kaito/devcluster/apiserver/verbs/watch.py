"""Watches: subscriptions that the store feeds synchronously, and the event streams that clients read."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kaito.devcluster.apiserver.store import NO_FIELDS, Change, Record, Store, encode
from kaito.devcluster.apiserver.verbs.reads import NOT_OLDER_THAN, check_not_ahead, parse_revision
from kaito.runtime import ApiError, Expired, Invalid

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.fields import Selection
    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.wire.requests import Query

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
WatchEvent = tuple[EventType, Record]
Renderer = Callable[[str, Record], bytes]

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
CHUNK = 64
"""Events that are written together."""
DEFAULT_TIMEOUT = (1800.0, 3600.0)
"""Seconds after which a watch without timeoutSeconds ends, drawn from this range as kube-apiserver does."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch asks for. ``timeout`` is in seconds."""

    revision: int
    """Events strictly after it are sent; 0 starts with the objects there are."""
    initial: bool
    """Whether the objects there are come first, as ADDED."""
    announce_end: bool
    """Whether a bookmark marks the end of those."""
    bookmarks: bool
    timeout: float

    @staticmethod
    def parse(query: Query, store: Store) -> WatchOptions:
        """Raises Invalid, BadRequest, or ServerTimeout for a revision from the future."""
        text, match = query.text("resourceVersion"), query.text("resourceVersionMatch")
        revision = parse_revision(text)
        send = query.optional_flag("sendInitialEvents")
        problem = ""
        if send is not None and match != NOT_OLDER_THAN:
            problem = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        elif send is None and match:
            problem = (
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents "
                "is provided"
            )
        if problem:
            raise Invalid(f'ListOptions.meta.k8s.io "" is invalid: {problem}')
        bookmarks = query.flag("allowWatchBookmarks")
        if send:
            check_not_ahead(store, revision)
        seconds = query.integer("timeoutSeconds")
        return WatchOptions(
            revision=revision,
            initial=send if send is not None else revision == 0,
            announce_end=bool(send) and bookmarks,
            bookmarks=bookmarks,
            timeout=float(seconds) if seconds else random.uniform(*DEFAULT_TIMEOUT),
        )


class Subscription:
    """The events of one watch that are not yet sent.

    A reader that falls ``limit`` events behind is cut off: the subscription closes and ``overrun`` is called.
    """

    def __init__(self, kind: Kind, selection: Selection, limit: int, overrun: Callable[[], None]) -> None:
        self._selection = selection
        self._limit = limit
        self._overrun = overrun
        self._events: deque[WatchEvent] = deque()
        self._after = 0
        self._wake = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = None
        self.kind = kind
        self.closed = False
        self.ended = False
        """No more events will come, since the resource is gone; those that are queued are still good."""

    def open(self, options: WatchOptions) -> None:
        """Queue what is already known and follow the collection from here on. Raises Expired."""
        collection = self.kind.collection
        if options.initial:
            for record in collection.within(self._selection.namespace):
                if self._selection.matches(record):
                    self._events.append(("ADDED", record))
        elif options.revision:
            self._after = options.revision
            for change in collection.since(options.revision):
                self._offer(change)
        self._unsubscribe = collection.subscribe(self._receive)

    def take(self) -> list[WatchEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    async def wait(self, seconds: float) -> None:
        """Return when there are events, when the watch was closed, or after ``seconds``."""
        self._wake.clear()
        if self._events or self.closed or self.ended:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        self.closed = True
        self._wake.set()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _receive(self, change: Change | None) -> None:
        if change is None:
            self.ended = True
            self._wake.set()
            return
        if len(self._events) >= self._limit:
            self.close()
            self._overrun()
            return
        self._offer(change)

    def _offer(self, change: Change) -> None:
        if change.revision <= self._after:
            return
        before = change.old is not None and self._selection.matches(change.old)
        after = change.new is not None and self._selection.matches(change.new)
        if after:
            assert change.new is not None
            self._events.append(("MODIFIED" if before else "ADDED", change.new))
        elif before:
            assert change.old is not None
            self._events.append(("DELETED", change.old.at(change.revision)))
        else:
            return
        self._wake.set()


class WatchHub:
    """All open watches."""

    def __init__(self, store: Store, *, bookmark_interval: float, buffer: int) -> None:
        self._store = store
        self._bookmark_interval = bookmark_interval
        self._buffer = buffer
        self._open: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._open)

    def close_all(self) -> None:
        """End every stream, as a restarting server does."""
        for subscription in tuple(self._open):
            subscription.close()

    async def stream(
        self,
        kind: Kind,
        selection: Selection,
        options: WatchOptions,
        render: Renderer,
        overrun: Callable[[], None],
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a watch, until its timeout, until it is closed, or until the reader goes away.

        ``overrun`` is called when the reader is too slow; it must end a sender that waits for the reader.

        A resource version that is too old is told in the stream, after HTTP 200, as one ERROR event.
        """
        subscription = Subscription(kind, selection, self._buffer, overrun)
        try:
            try:
                subscription.open(options)
            except Expired as error:
                yield error_line(error)
                return
            self._open.add(subscription)
            async for chunk in self._follow(subscription, options, render):
                yield chunk
        finally:
            subscription.close()
            self._open.discard(subscription)

    async def _follow(
        self, subscription: Subscription, options: WatchOptions, render: Renderer
    ) -> AsyncGenerator[bytes, None]:
        now = asyncio.get_running_loop().time
        end = now() + options.timeout
        next_bookmark = now() + self._bookmark_interval if options.bookmarks else end
        if options.initial:
            as_of = self._store.revision
            for chunk in _rendered(subscription.take(), render):
                yield chunk
            if options.announce_end:
                yield render("BOOKMARK", _bookmark(as_of, initial_events_end=True))
        while not subscription.closed:
            if events := subscription.take():
                for chunk in _rendered(events, render):
                    yield chunk
                continue
            if subscription.ended:
                return
            if now() >= min(end, next_bookmark):
                # Everything up to the present revision has been sent: the queue is empty. Of a revision before its start a
                # watch hears nothing.
                if options.bookmarks and self._store.revision >= options.revision:
                    yield render("BOOKMARK", _bookmark(self._store.revision))
                if now() >= end:
                    return
                next_bookmark = now() + self._bookmark_interval
                continue
            await subscription.wait(max(0.0, min(end, next_bookmark) - now()))


def _rendered(events: list[WatchEvent], render: Renderer) -> Iterator[bytes]:
    """Piece by piece, so that the reader has the first before the last is made and nobody else waits for all of it."""
    for start in range(0, len(events), CHUNK):
        yield b"".join(render(event, record) for event, record in events[start : start + CHUNK])


def _bookmark(revision: int, *, initial_events_end: bool = False) -> Record:
    metadata: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_events_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    return Record("", revision, encode({"metadata": metadata}), NO_FIELDS, NO_FIELDS)


def error_line(error: ApiError) -> bytes:
    return encode({"type": "ERROR", "object": error.status()}) + b"\n"
