"""From events to keys: the predicates and mappers of one controller's watches, and what becomes of those that fail.

A predicate or mapper is the author's code and may fail, for want of a cache that has not synced or by a bug. Its event is not
lost: the keys that were found are queued, and the object is looked at again after growing delays, until it has been mapped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

import msgspec

from kaito.runtime.control.workqueue import LOW_PRIORITY, QueueShutDown, WorkQueue
from kaito.runtime.fairness import HOLD_LIMIT, Holds
from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.events import Event, EventType, Handler, Predicate
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.stored import Stored

Mapper = Callable[[Stored[Any]], Iterable[Key]]
"""The keys that a change of an object concerns. Called with the old and the new state; must not block."""

Add = Callable[[Key, int, str], None]
"""Queue a key with a priority; the text is the event's cause, see ``cause_of``."""

_log = get_logger("controller")


def cause_of(event: Event[Any]) -> str:
    """What tells the write behind an event from every other one: the resource version it made, or the uid that it ended."""
    current = event.current
    return current.uid if event.type is EventType.DELETED else current.resource_version


class _Place(NamedTuple):
    """An object that could not be mapped, and the watch it was seen by."""

    watch: int
    key: Key


class _Mapped(msgspec.Struct, frozen=True):
    """How the events of one watch become keys."""

    name: str
    resource: Resource[Any]
    to: Mapper
    predicate: Predicate | None


@final
class Mapping:
    """All watches of one controller. ``run`` tries failed events again; without it they wait."""

    def __init__(self, controller: str, add: Add, metrics: RuntimeMetrics, holds: Holds) -> None:
        self._controller = controller
        self._add = add
        self._metrics = metrics
        self._holds = holds
        self._watches: dict[int, _Mapped] = {}
        self._numbers = iter(range(1 << 62))
        # The first and the last event of an object that were not mapped; what came between is in neither.
        self._missed: dict[_Place, tuple[Event[Any], Event[Any]]] = {}
        self._queue: WorkQueue[_Place] = WorkQueue()

    def handler(self, resource: Resource[Any], to: Mapper, predicate: Predicate | None) -> tuple[int, Handler]:
        """A handler for an informer of ``resource``, and the number by which it is forgotten."""
        number = next(self._numbers)
        name = f"controller {self._controller}, watch of {resource.group_resource}"
        watch = self._watches[number] = _Mapped(name, resource, to, predicate)
        queue = self._queue

        def handle(event: Event[Any]) -> None:
            try:
                self._map(watch, event)
            except Exception as error:  # the author's code; the event is kept
                place = _Place(number, event.current.key)
                first, _ = self._missed.get(place, (event, event))
                self._missed[place] = (first, event)
                self._failed(watch, place, error)
                queue.add_rate_limited(place)

        return number, handle

    def forget(self, number: int) -> None:
        """What the watch has missed is of no interest any more."""
        del self._watches[number]
        for place in [place for place in self._missed if place.watch == number]:
            del self._missed[place]

    async def run(self) -> None:
        """Map what has failed, again and again, until cancelled or shut down."""
        queue = self._queue
        while True:
            try:
                place, _ = await queue.get()
            except QueueShutDown:
                return
            try:
                self._again(place)
            finally:
                queue.done(place)

    def _again(self, place: _Place) -> None:
        missed = self._missed.get(place)
        if missed is None:
            self._queue.forget(place)
            return
        watch = self._watches[place.watch]
        try:
            for event in dict.fromkeys(missed):
                self._map(watch, event)
        except Exception as error:
            self._failed(watch, place, error)
            self._queue.add_rate_limited(place)
        else:
            del self._missed[place]
            self._queue.forget(place)

    def shut_down(self) -> None:
        self._queue.shut_down()

    def _failed(self, watch: _Mapped, place: _Place, error: Exception) -> None:
        self._metrics.handler_errors_total.labels(watch.resource.group_resource).inc()
        attempt = self._queue.failures(place)
        tell = _log.error if attempt == 0 else _log.debug
        tell(
            "an event could not be mapped to keys and will be tried again",
            watch=watch.name,
            object=str(place.key),
            error=f"{type(error).__name__}: {error}",
            attempt=attempt,
            exc_info=error if attempt == 0 else None,
        )

    def _map(self, watch: _Mapped, event: Event[Any]) -> None:
        """Queue what the event concerns, also where only half of that can be found: then raises."""
        began = time.perf_counter()
        try:
            # A reminder is asked for by the controller itself: it passes whatever is filtered.
            if watch.predicate is not None and not event.resync and not watch.predicate(event):
                return
            self._queue_keys(watch.to, event)
        finally:
            held = time.perf_counter() - began
            if held >= HOLD_LIMIT:
                self._holds.report(watch.name, held)

    def _queue_keys(self, to: Mapper, event: Event[Any]) -> None:
        old, new, cause = event.old, event.new, cause_of(event)
        add = self._add
        if old is None or new is None or event.unchanged:
            priority = LOW_PRIORITY if event.initial or event.unchanged else 0
            for key in to(event.current):
                add(key, priority, cause)
            return
        keys: dict[Key, None] = {}
        failure: Exception | None = None
        for state in (old, new):
            try:
                for key in to(state):
                    keys[key] = None
            except Exception as error:  # the other state may still say whom it concerned
                failure = error
        for key in keys:
            add(key, 0, cause)
        if failure is not None:
            raise failure
