"""Events about objects, as ``kubectl describe`` shows them: recorded at once, written in the background.

Recording never waits and never fails a reconcile. Two writers send what is recorded; what the server cannot take now is sent
again, twelve times in all, as client-go does. An event that repeats becomes a series of the first one: its second
occurrence and then at most one write a minute. One object can cause 25 events at once and one every five minutes after
that; the rest is dropped, as client-go's spam filter does.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import re
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, final

import msgspec

from kaito.runtime.clock import Clock, format_micro_time
from kaito.runtime.errors import (
    AlreadyExists,
    FencedError,
    InternalError,
    NotFound,
    RuntimeFault,
    ServerTimeout,
    ServiceUnavailable,
    TooManyRequests,
    TransportError,
)
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import EVENTS
from kaito.runtime.objects.stored import ObjectReference
from kaito.runtime.transport.client import Client

EventKind = Literal["Normal", "Warning"]

QUEUE_LIMIT = 1000
"""Events that wait to be written; more are dropped."""
SERIES_PERIOD = 60.0
"""Seconds between two writes of one series."""
SERIES_END = 360.0
"""Seconds without a repetition after which a series is over."""
SPAM_BURST = 25
SPAM_REFILL = 300.0
"""Seconds for one more event of an object that has used up its burst."""
WRITERS = 2
TRIES = 12
RETRY_DELAY, RETRY_JITTER = 10.0, 0.25
"""Seconds between two tries, stretched by up to a quarter."""
FLUSH_TIME = 5.0
"""Seconds that stopping waits for what is still to be written."""

_NOTE_LIMIT = 1024
_WORD_LIMIT = 128
_ELLIPSIS = "…"
_EVENT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")

_RETRIABLE = (TransportError, TooManyRequests, ServiceUnavailable, ServerTimeout, InternalError, OSError)
"""The event is as good as before; anything else the server would refuse again."""

_log = get_logger("events")

_SeriesKey = tuple[str, str, str, str, ObjectReference, ObjectReference | None, str]


class _Series(msgspec.Struct):
    name: str
    namespace: str
    count: int
    written: int
    last_seen: float
    last_write: float
    last_seen_text: str
    created: bool = False


@dataclass(slots=True, order=True)
class _Pending:
    """An event that waits to be written, the first time or again."""

    due: float
    key: _SeriesKey = field(compare=False)
    body: dict[str, Any] = field(compare=False)
    tries: int = field(default=0, compare=False)


class _Tokens(msgspec.Struct):
    left: float
    updated: float


@final
class EventWriter:
    """The background half, one for each manager."""

    def __init__(self, client: Client, clock: Clock, instance: str) -> None:
        self._client = client
        self._clock = clock
        self._instance = _fitting(instance, _WORD_LIMIT)
        self._pending: deque[_Pending] = deque()
        self._again: list[_Pending] = []
        self._writing = 0
        self._series: dict[_SeriesKey, _Series] = {}
        self._tokens: dict[tuple[str, ObjectReference], _Tokens] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    def record(
        self,
        controller: str,
        regarding: ObjectReference,
        kind: EventKind,
        reason: str,
        note: str,
        action: str,
        related: ObjectReference | None,
    ) -> None:
        now = self._clock.monotonic()
        identity = ObjectReference(
            api_version=regarding.api_version,
            kind=regarding.kind,
            name=regarding.name,
            namespace=regarding.namespace,
            uid=regarding.uid,
        )
        note = _fitting(note, _NOTE_LIMIT)
        key: _SeriesKey = (kind, action, reason, controller, identity, related, note)
        moment = self._clock.now()
        series = self._series.get(key)
        if series is not None and now - series.last_seen < SERIES_END:
            series.count += 1
            series.last_seen = now
            series.last_seen_text = format_micro_time(moment)
            self._notify()
            return
        waiting = len(self._pending) + len(self._again)
        if not self._allowed(controller, identity, now) or waiting >= QUEUE_LIMIT:
            self.dropped += 1
            return
        namespace = regarding.namespace or "default"
        name = _name(regarding.name, int(moment.timestamp() * 1e9))
        self._series[key] = _Series(name, namespace, 1, 1, now, now, format_micro_time(moment))
        body: dict[str, Any] = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": format_micro_time(moment),
            "type": kind,
            "reason": _fitting(reason, _WORD_LIMIT),
            "action": _fitting(action, _WORD_LIMIT),
            "note": note,
            "regarding": regarding,
            "reportingController": controller,
            "reportingInstance": self._instance,
        }
        if related is not None:
            body["related"] = related
        self._pending.append(_Pending(0.0, key, body))
        self._notify()

    def _allowed(self, controller: str, regarding: ObjectReference, now: float) -> bool:
        tokens = self._tokens.setdefault((controller, regarding), _Tokens(SPAM_BURST, now))
        tokens.left = min(SPAM_BURST, tokens.left + (now - tokens.updated) / SPAM_REFILL)
        tokens.updated = now
        if tokens.left < 1:
            return False
        tokens.left -= 1
        return True

    def _notify(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        works = [*(self._write() for _ in range(WRITERS)), self._look_after_series()]
        async with asyncio.TaskGroup() as group:
            await asyncio.wait([group.create_task(work, name="event writer") for work in works])

    async def _write(self) -> None:
        while True:
            event = self._next()
            if event is None:
                await self._wait(SERIES_PERIOD)
                continue
            self._writing += 1
            try:
                await self._create(event)
            finally:
                self._writing -= 1
            self._rest()

    def _next(self) -> _Pending | None:
        if self._again and self._again[0].due <= asyncio.get_running_loop().time():
            return heapq.heappop(self._again)
        return self._pending.popleft() if self._pending else None

    async def _wait(self, most: float) -> None:
        """Until something is recorded, or it is time to try again, or ``most`` seconds have passed."""
        if self._again:
            most = min(most, max(0.0, self._again[0].due - asyncio.get_running_loop().time()))
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(most):
                await self._wake.wait()

    async def _look_after_series(self) -> None:
        while True:
            await self._write_series()
            self._rest()
            await self._wait(SERIES_PERIOD)

    def _rest(self) -> None:
        """Idle is: nothing recorded that was not tried, and nothing under way."""
        fresh = any(series.created and series.written == 1 < series.count for series in self._series.values())
        if not self._pending and not self._writing and not fresh:
            self._idle.set()

    async def flush(self, within: float = FLUSH_TIME) -> None:
        """Wait until all that was recorded is written, but at most ``within`` seconds; what failed is tried once more now."""
        self._pending.extend(sorted(self._again))
        self._again.clear()
        if self._pending:
            self._notify()
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("gave up writing events", left=len(self._pending) + self._writing)

    async def _create(self, event: _Pending) -> None:
        event.tries += 1
        try:
            await self._client.create(EVENTS, event.body)
        except AlreadyExists:
            pass
        except (RuntimeFault, OSError) as error:
            words = str(error) or type(error).__name__
            if isinstance(error, _RETRIABLE) and event.tries < TRIES:
                delay = RETRY_DELAY * random.uniform(1.0, 1.0 + RETRY_JITTER)
                event.due = asyncio.get_running_loop().time() + delay
                heapq.heappush(self._again, event)
                _log.debug("will write an event again", reason=event.body["reason"], error=words)
                return
            level = _log.debug if isinstance(error, FencedError) else _log.warning
            level("cannot write an event", reason=event.body["reason"], error=words)
            self._series.pop(event.key, None)
            return
        if (series := self._series.get(event.key)) is not None:
            series.created = True
            if series.count > series.written:
                self._notify()

    async def _write_series(self) -> None:
        now = self._clock.monotonic()
        for key, series in tuple(self._series.items()):
            due = series.written == 1 or now - series.last_write >= SERIES_PERIOD
            over = now - series.last_seen >= SERIES_END
            if series.created and series.count > series.written and (due or over):
                series.last_write = now
                patch = {"series": {"count": series.count, "lastObservedTime": series.last_seen_text}}
                try:
                    await self._client.patch(EVENTS, series.name, patch, namespace=series.namespace)
                    series.written = series.count
                except NotFound:
                    del self._series[key]
                    continue
                except RuntimeFault as error:
                    _log.debug("cannot write an event series", error=str(error))
            if over:
                self._series.pop(key, None)
        for owner, tokens in tuple(self._tokens.items()):
            if now - tokens.updated > SPAM_BURST * SPAM_REFILL:
                del self._tokens[owner]


def _fitting(text: str, limit: int) -> str:
    """``text``, cut where it has more than ``limit`` bytes in UTF-8; so the API server counts."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    return encoded[: limit - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def _name(regarding: str, number: int) -> str:
    """Not every name of an object is one that an Event may have: a ClusterRole's may contain colons."""
    name = f"{regarding[:230].rstrip('.-')}.{number:x}"
    return name if _EVENT_NAME.match(name) else f"event-{uuid.uuid4()}"


@final
class EventRecorder:
    """Records events in the name of one controller."""

    __slots__ = ("_controller", "_writer")

    def __init__(self, writer: EventWriter, controller: str) -> None:
        self._writer = writer
        self._controller = controller

    def event(
        self,
        regarding: ObjectReference,
        kind: EventKind,
        reason: str,
        note: str,
        *,
        action: str = "",
        related: ObjectReference | None = None,
    ) -> None:
        """Record that something happened to ``regarding``.

        ``reason`` is one CamelCase word that programs may compare, ``note`` a sentence for people (cut at 1024
        bytes), ``action`` what the controller did, by default the reason.
        """
        self._writer.record(self._controller, regarding, kind, reason, note, action or reason, related)
