"""An informer: keeps a store equal to what the server has, and tells handlers of every change, in order.

The event loop is the lock: an event is decoded, applied, indexed and handed to the handlers in one step. Between two events
the informer gives way to the rest of the process, however long the list that it applies or repeats.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar, final

import msgspec

from kaito.runtime.cache.indexes import IndexFunction
from kaito.runtime.cache.lister import Lister
from kaito.runtime.cache.reflector import ReflectorMachine, Step, StepKind, StreamedVersions, Timeout, streams_no_lists
from kaito.runtime.cache.registration import Handlers, Registration
from kaito.runtime.cache.scope import Scope
from kaito.runtime.cache.store import Known, Store
from kaito.runtime.cache.wire import INITIAL_EVENTS_END, WireReader
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import ApiError, DecodeError, Expired, RuntimeFault
from kaito.runtime.fairness import LoopBudget
from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.events import Event, EventType, Handler
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.stored import Stored, revision
from kaito.runtime.objects.transforms import Transform
from kaito.runtime.transport.pager import list_pages
from kaito.runtime.transport.rest import Rest, Stream

T = TypeVar("T")

IDLE_DEADLINE = 130.0
"""Seconds of silence, two bookmark periods of a real server, after which a watch that has seen a bookmark is taken for
dead."""
INITIAL_IDLE_DEADLINE = 30.0
"""Seconds of silence in the initial part of a streaming list after which a plain list is tried."""
DEADLINE_GRACE = 30.0
"""Seconds past the timeout asked of the server after which the client ends the watch itself."""

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

_log = get_logger("informer")


class Phase(enum.StrEnum):
    IDLE = "idle"
    LISTING = "listing"
    WATCHING = "watching"
    FAILING = "failing"


class InformerStatus(msgspec.Struct, frozen=True):
    resource: str
    phase: Phase
    synced: bool
    objects: int
    bytes: int
    resource_version: int
    last_error: str | None
    seconds_since_event: float
    restarts: Mapping[str, int]


class _Progress(msgspec.Struct):
    """How one step is going."""

    step: Step
    started: float
    versions: StreamedVersions
    events: int = 0
    bookmarks: bool = False


@final
class Informer(Generic[T]):
    """One list-and-watch of one resource in one scope, shared by all who need it."""

    def __init__(
        self,
        rest: Rest,
        resource: Resource[T],
        scope: Scope | None = None,
        *,
        metrics: RuntimeMetrics,
        clock: Clock | None = None,
        machine: ReflectorMachine | None = None,
        idle_deadline: float = IDLE_DEADLINE,
        budget: LoopBudget | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.resource = resource
        self.scope = scope or Scope()
        self._budget = budget or LoopBudget()
        self._reader: WireReader[T] = WireReader(resource, transform, self.skipped)
        self._rest = rest
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._machine = machine or ReflectorMachine()
        self._idle_deadline = idle_deadline
        self._label = resource.group_resource
        self._store: Store[T] = Store(resource, on_index_error=self._index_failed)
        self._handlers = Handlers(self._handler_failed)
        self._synced = asyncio.Event()
        self._phase = Phase.IDLE
        self._error: Exception | None = None
        self._last_event = self._clock.monotonic()
        self._restarts: dict[str, int] = {}
        self._reported: set[str] = set()
        self._running = False

    # For readers and handlers

    @property
    def store(self) -> Store[T]:
        """What it holds, for a ``Lister``."""
        return self._store

    @property
    def running(self) -> bool:
        return self._running

    def lister(self, check: Callable[[], None]) -> Lister[T]:
        """Cached reads; ``check`` raises where they are not possible yet."""
        return Lister(self._store, check, on_skipped=self.skipped)

    def widen(self, resource: Resource[Any]) -> None:
        """Hold whole objects instead of their metadata. Before it runs."""
        self.resource = self._store.resource = self._reader.resource = resource

    def add_index(self, name: str, function: IndexFunction) -> None:
        self._store.add_index(name, function)

    def add_handler(self, handler: Handler, resource: Resource[Any] | None = None) -> Registration:
        """Tell ``handler`` of everything in the store as ``initial`` additions, and of every change from now on.

        It reads the objects as ``resource`` does. A large store is handed over in slices, the first of them now:
        ``Registration.caught_up``.
        """
        return self._handlers.add(handler, resource or self.resource, self._store.snapshot())

    async def resync(self, registration: Registration) -> None:
        """Remind one handler of every object, as updates in which nothing changed."""
        for known in self._store.snapshot():
            await self._budget.give_way()
            stored = self._store.get(known.key)
            if stored is not None:
                self._handlers.remind(registration, stored)

    @property
    def synced(self) -> bool:
        """Whether the first list is in the store and has been handed to every handler."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def status(self) -> InformerStatus:
        return InformerStatus(
            resource=str(self.resource),
            phase=self._phase,
            synced=self.synced,
            objects=len(self._store),
            bytes=self._store.bytes,
            resource_version=self._store.revision,
            last_error=None if self._error is None else str(self._error),
            seconds_since_event=self._clock.monotonic() - self._last_event,
            restarts=dict(self._restarts),
        )

    def report(self) -> None:
        """Bring the gauges up to date."""
        self._metrics.informer_objects.labels(self._label).set(len(self._store))
        self._metrics.informer_synced.labels(self._label).set(self.synced)
        self._metrics.informer_bytes.labels(self._label).set(self._store.bytes)
        self._metrics.informer_revision.labels(self._label).set(self._store.revision)
        self._metrics.informer_last_event_age.labels(self._label).set(self._clock.monotonic() - self._last_event)

    # Own writes

    def written(self, data: bytes) -> None:
        """The answer to a write of this process; see ``Store.inject``. Raises DecodeError."""
        stored = self._reader.written(data)
        if not self.scope.covers(stored):
            return
        self._handlers.dispatch(self._store.inject(stored))

    def deleted(self, key: Key, uid: str) -> None:
        """A deletion by this process was carried out at once."""
        self._handlers.dispatch(self._store.forget(key, uid))

    # The loop

    async def run(self) -> None:
        """List and watch until cancelled; the store outlives it. Raises RuntimeError if it already runs."""
        if self._running:
            raise RuntimeError(f"the informer of {self.resource} already runs")
        self._running = True
        try:
            while True:
                delay = await self._round()
                if delay > 0:
                    await asyncio.sleep(delay)
        finally:
            self._running = False
            self._phase = Phase.IDLE

    async def _round(self) -> float:
        step = self._machine.next()
        progress = _Progress(step, self._clock.monotonic(), StreamedVersions(step.resource_version))
        try:
            if step.kind is StepKind.LIST:
                self._phase = Phase.LISTING
                await self._list(step)
                return 0.0
            await self._watch(progress)
        except RuntimeFault as error:
            now = self._clock.monotonic()
            self._note(step, error)
            return self._machine.failed(step, error, lasted=now - progress.started, now=now)
        now = self._clock.monotonic()
        return self._machine.ended(step, events=progress.events, lasted=now - progress.started, now=now)

    def _note(self, step: Step, error: Exception) -> None:
        reason = error.reason if isinstance(error, ApiError) else type(error).__name__
        self._restarts[reason] = self._restarts.get(reason, 0) + 1
        self._metrics.informer_restarts_total.labels(self._label, reason).inc()
        if isinstance(error, Timeout):
            return
        if streams_no_lists(step, error):
            _log.info("listing, because this server streams no lists", resource=self._label)
            return
        self._phase = Phase.FAILING
        self._error = error
        text = f"{step.kind}: {error}"
        if text not in self._reported:
            self._reported.add(text)
            _log.warning("cannot list or watch", resource=self._label, step=step.kind.value, error=str(error))

    def _healthy(self) -> None:
        self._error = None
        self._reported.clear()

    async def _list(self, step: Step) -> None:
        listed: dict[Key, Stored[T]] = {}
        version, paged = "", False
        known = self._known(step)
        pages = list_pages(
            self._rest,
            self.resource,
            self.resource.path(self.scope.namespace),
            self.scope.query(),
            limit=step.limit,
            resource_version=step.resource_version or None,
            accept=_METADATA_LIST if self.resource.metadata_only else "application/json",
        )
        async with aclosing(pages):
            async for page in pages:
                if page.restarted:
                    listed.clear()
                for item in page.items:
                    stored = self._reader.object(bytes(item))
                    if stored is not None:
                        listed[stored.key] = self._store.shared(stored)
                    await self._budget.give_way()
                version, paged = page.resource_version, page.paged
        await self._replace(listed, version, known)
        self._machine.listed(version, paged=paged)

    def _known(self, step: Step) -> Known | None:
        """What a list that is asked for now cannot be older than; None where it may be outdated."""
        return None if step.resource_version else self._store.known()

    async def _replace(self, listed: Mapping[Key, Stored[T]], version: str, known: Known | None) -> None:
        initial = not self.synced
        for event in self._store.replace(listed, version, known=known):
            if initial and event.type is EventType.ADDED:
                event = Event(EventType.ADDED, new=event.new, initial=True)
            self._handlers.dispatch(event)
            await self._budget.give_way()
        self._last_event = self._clock.monotonic()
        self._healthy()
        self._synced.set()

    async def _watch(self, progress: _Progress) -> None:
        step = progress.step
        query = self.scope.query() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(step.timeout)),
        }
        if step.resource_version:
            query["resourceVersion"] = step.resource_version
        staging: dict[Key, Stored[T]] | None = None
        if step.kind is StepKind.STREAM:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            staging = {}
            self._phase = Phase.LISTING
        known = self._known(step)
        hard_deadline = asyncio.get_running_loop().time() + step.timeout + DEADLINE_GRACE
        accept = _METADATA if self.resource.metadata_only else "application/json"
        async with self._rest.stream(self.resource.path(self.scope.namespace), query, accept=accept) as stream:
            if staging is None:
                self._phase = Phase.WATCHING
                self._healthy()
            while (lines := await self._lines(stream, progress, staging is not None, hard_deadline)) is not None:
                for line in lines:
                    if staging is not None:
                        version = self._stage(line, staging, progress)
                        if version is not None:
                            await self._replace(staging, version, known)
                            self._machine.listed(version)
                            progress.versions = StreamedVersions(version)
                            staging = None
                            self._phase = Phase.WATCHING
                    else:
                        self._on_line(line, progress)
                    await self._budget.give_way()

    async def _lines(
        self, stream: Stream, progress: _Progress, initial: bool, hard_deadline: float
    ) -> list[bytes] | None:
        """The next lines of the stream, or Timeout where a living server would have said something."""
        loop = asyncio.get_running_loop()
        deadline = hard_deadline
        if initial:
            deadline = min(deadline, loop.time() + INITIAL_IDLE_DEADLINE)
        elif progress.bookmarks:
            deadline = min(deadline, loop.time() + self._idle_deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await stream.lines()
        except TimeoutError as error:
            raise Timeout(f"the watch of {self._label} fell silent") from error

    def _stage(self, line: bytes, staging: dict[Key, Stored[T]], progress: _Progress) -> str | None:
        """Collect one line of the initial state; its resource version once it is complete."""
        kind, stored, bookmark = self._reader.event(line)
        if bookmark is not None:
            return bookmark.resource_version if bookmark.annotations.get(INITIAL_EVENTS_END) == "true" else None
        progress.events += 1
        if stored is None:
            return None
        if kind == "DELETED":
            staging.pop(stored.key, None)
        else:
            staging[stored.key] = self._store.shared(stored)
        return None

    def _on_line(self, line: bytes, progress: _Progress) -> None:
        kind, stored, bookmark = self._reader.event(line)
        self._last_event = self._clock.monotonic()
        progress.events += 1
        if bookmark is not None:
            progress.bookmarks = True
            version = bookmark.resource_version
            if progress.versions.before(revision(version)):
                raise Expired(f"the watch of {self._label} is at {progress.versions.reached} and told of {version}")
            self._store.advance(revision(version))
            self._machine.seen(progress.versions.event("BOOKMARK", version))
            return
        if stored is None:
            return
        if kind == "DELETED":
            self._handlers.dispatch(self._store.remove(stored))
        elif not progress.versions.told(stored.revision):
            self._handlers.dispatch(self._store.upsert(stored))
        self._machine.seen(progress.versions.event(kind, stored.resource_version))

    def skipped(self, error: DecodeError) -> None:
        """An object was left out, because it is not what it should be."""
        self._metrics.decode_errors_total.labels(self._label).inc()
        text = str(error)
        if text not in self._reported:
            self._reported.add(text)
            _log.warning("skipped an object", resource=self._label, error=text)

    def _handler_failed(self, event: Event[Any], error: Exception) -> None:
        self._metrics.handler_errors_total.labels(self._label).inc()
        _log.exception("an event handler failed", resource=self._label, key=str(event.current.key), error=str(error))

    def _index_failed(self, error: Exception) -> None:
        self._metrics.handler_errors_total.labels(self._label).inc()
        _log.error("an index function failed", resource=self._label, error=str(error))
