"""A controller: events of some resources become keys, keys become calls of a reconciler."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, final

from kaito.runtime.cache.cache import SYNC_TIMEOUT, Cache, wait_synced
from kaito.runtime.cache.informer import Informer, Registration
from kaito.runtime.control.ratelimit import ExponentialRateLimiter, RateLimiter
from kaito.runtime.control.reconcile import Reconciler, Request, Result
from kaito.runtime.control.sources import Source
from kaito.runtime.control.workqueue import LOW_PRIORITY, QueueShutDown, WorkQueue
from kaito.runtime.errors import ConfigError, TerminalError
from kaito.runtime.log import ReconcileScope, get_logger, reconcile_scope
from kaito.runtime.metrics import ControllerMetrics, RuntimeMetrics
from kaito.runtime.objects.events import Event, EventType, Predicate
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import LabelSelector
from kaito.runtime.objects.stored import Stored
from kaito.runtime.tasks import TaskScope

T = TypeVar("T")

RESYNC_PERIOD = 10 * 3600.0
"""Seconds after which every object is reconciled again, ±10 %; same as controller-runtime's SyncPeriod."""

Mapper = Callable[[Stored[Any]], Iterable[Key]]
"""The keys that a change of an object concerns. Called with the old and the new state; must not block."""

_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Errors that no correct program raises: counted as panics, contained like any other."""

_log = get_logger("controller")


@dataclass(frozen=True)
class Watch(Generic[T]):
    """Another resource whose changes concern the controller's objects."""

    resource: Resource[T]
    to: Callable[[Stored[T]], Iterable[Key]]
    predicate: Predicate | None = None
    namespace: str = ""
    labels: LabelSelector | None = None


@dataclass(frozen=True)
class Controller:
    """The declaration of a controller; the manager runs it."""

    name: str
    """Unique in the process; label of its metrics."""
    reconciler: Reconciler
    primary: Resource[Any] | None = None
    """The resource whose objects it reconciles; None where its keys come from watches and sources alone."""
    owns: Sequence[Resource[Any]] = ()
    """Resources whose objects have an object of ``primary`` as their controlling owner."""
    watches: Sequence[Watch[Any]] = ()
    sources: Sequence[Source] = ()
    """Reasons to reconcile that are not events of a resource; they run while the controller does."""
    predicate: Predicate | None = None
    """Filter on events of ``primary``."""
    max_concurrent: int = 1
    needs_leader: bool = True
    reconcile_timeout: float | None = None
    """Seconds after which one reconcile is cancelled and counts as failed."""
    sync_timeout: float = SYNC_TIMEOUT
    resync_period: float = RESYNC_PERIOD
    rate_limiter: Callable[[], RateLimiter] = field(default=ExponentialRateLimiter)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a controller needs a name")
        if self.max_concurrent < 1:
            raise ConfigError(f"controller {self.name}: max_concurrent is {self.max_concurrent}, it must be at least 1")
        if self.primary is None and self.owns:
            raise ConfigError(f"controller {self.name}: it has no primary resource, so nothing can be owned by one")
        if self.primary is None and not self.watches and not self.sources:
            raise ConfigError(f"controller {self.name}: it has no resource, watch or source, so it would never run")

    def watched(self) -> list[Watch[Any]]:
        """Everything it watches, its own resource first."""
        if self.primary is None:
            return list(self.watches)
        primary: Watch[Any] = Watch(self.primary, lambda stored: (stored.key,), self.predicate)
        owned = [Watch[Any](resource, owner_keys(self.primary)) for resource in self.owns]
        return [primary, *owned, *self.watches]


def owner_keys(owner: Resource[Any]) -> Mapper:
    """A mapper to the controlling owner, where that is of ``owner``'s group and kind, in whatever version."""

    def keys(stored: Stored[Any]) -> Iterable[Key]:
        if b'"ownerReferences"' not in stored.data:
            return ()
        reference = stored.meta.controller_owner
        if reference is None or reference.kind != owner.kind or reference.group != owner.group:
            return ()
        return (Key(stored.key.namespace if owner.namespaced else "", reference.name),)

    return keys


def _stopped() -> bool:
    """Whether it is this task that was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@final
class ControllerRun:
    """One running controller."""

    def __init__(self, controller: Controller, cache: Cache, metrics: RuntimeMetrics) -> None:
        self.controller = controller
        self._cache = cache
        self._metrics = metrics
        self._queue: WorkQueue[Key] = WorkQueue(rate_limiter=controller.rate_limiter())
        self._registrations: list[tuple[Informer[Any], Registration]] = []
        self._series: ControllerMetrics = metrics.for_controller(controller.name, controller.max_concurrent)
        metrics.watch_queue(controller.name, self._queue.statistics)
        self._workers = TaskScope(self._worker_failed)
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def declare(self) -> None:
        """Make the informers that the controller needs, so that they sync with the rest of the cache."""
        for source in self.controller.watched():
            self._cache.informer(source.resource, namespace=source.namespace, labels=source.labels)

    def enqueue(self, key: Key, *, priority: int = 0, after: float = 0.0) -> None:
        """Reconcile ``key``, ``after`` seconds from now, whatever the cache says of it."""
        self._queue.add(key, priority=priority, after=after)

    async def run(self) -> None:
        """Follow the sources and reconcile until cancelled: then finish what is being reconciled, and return.

        Raises SyncTimeout, and whatever a worker could not contain.
        """
        try:
            await self._subscribe()
            await self.work()
        finally:
            for _, registration in self._registrations:
                registration.remove()

    async def work(self) -> None:
        """Reconcile what is queued, until cancelled: then finish what is being reconciled."""
        for number in range(self.controller.max_concurrent):
            # A fresh context: what the starter has bound must not show in the workers' logs.
            Context().run(self._workers.start, f"{self.controller.name} worker {number}", self._work())
        feeders = TaskScope(self._worker_failed)
        feeders.start(f"{self.controller.name} resync", self._resync())
        for number, source in enumerate(self.controller.sources):
            Context().run(feeders.start, f"{self.controller.name} source {number}", source.run(self.enqueue))
        try:
            await self._failure
        finally:
            self._queue.shut_down()
            try:
                await feeders.aclose()
                await self._workers.join()
            finally:
                # Reached early only when the manager's patience has run out: what still reconciles is cancelled.
                await feeders.aclose()
                await self._workers.aclose()

    async def _subscribe(self) -> None:
        informers = []
        for source in self.controller.watched():
            informer = self._cache.informer(source.resource, namespace=source.namespace, labels=source.labels)
            informers.append(informer)
            self._registrations.append((informer, informer.add_handler(self._handler(source))))
        # Once synced, an informer has handed its objects to the handlers, so every key is queued before a worker starts.
        await wait_synced(informers, self.controller.sync_timeout)

    def _handler(self, source: Watch[Any]) -> Callable[[Event[Any]], None]:
        add, to, predicate = self._queue.add, source.to, source.predicate

        def handle(event: Event[Any]) -> None:
            if predicate is not None and not predicate(event):
                return
            old, new = event.old, event.new
            unchanged = (
                event.type is EventType.UPDATED
                and old is not None
                and new is not None
                and (event.resync or old.resource_version == new.resource_version)
            )
            priority = LOW_PRIORITY if event.initial or unchanged else 0
            if old is None or new is None or unchanged:
                for key in to(event.current):
                    add(key, priority=priority)
                return
            for key in dict.fromkeys((*to(old), *to(new))):
                add(key, priority=priority)

        return handle

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.controller.resync_period * random.uniform(0.9, 1.1))
            for informer, registration in self._registrations:
                informer.resync(registration)

    def _worker_failed(self, name: str, error: BaseException) -> None:
        if self._failure.done():
            _log.error("a worker failed while its controller was stopping", worker=name, error=repr(error))
        else:
            self._failure.set_exception(error)

    async def _work(self) -> None:
        queue = self._queue
        while True:
            try:
                key, priority = await queue.get()
            except QueueShutDown:
                return
            try:
                await self._reconcile(key, priority)
            finally:
                queue.done(key)

    async def _reconcile(self, key: Key, priority: int) -> None:
        queue, series, controller = self._queue, self._series, self.controller
        token = reconcile_scope.set(
            ReconcileScope(controller.name, key.namespace, key.name, f"{random.getrandbits(64):016x}")
        )
        series.active.inc()
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "error"
        try:
            result = await self._call(Request(key, queue.failures(key)))
            outcome = "success"
            if result is not None and result.requeue_after is not None:
                outcome = "requeue_after"
                queue.forget(key)
                # What was added while this ran is served at once; this only makes sure of another look later.
                queue.add(
                    key, after=result.requeue_after, priority=priority if result.priority is None else result.priority
                )
            else:
                queue.forget(key)
        except TerminalError as error:
            series.errors.inc()
            series.terminal_errors.inc()
            queue.forget(key)
            _log.error("reconcile failed for good", error=str(error))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _stopped():
                raise
            # A reconcile that awaits something which somebody else has cancelled fails like any other.
            series.errors.inc()
            if isinstance(error, _BUGS):
                series.panics.inc()
            queue.add_rate_limited(key, priority=priority)
            _log.warning(
                "reconcile failed", error=f"{type(error).__name__}: {error}", attempt=queue.failures(key), exc_info=True
            )
        finally:
            series.results[outcome].inc()
            series.time.observe(loop.time() - started)
            series.active.dec()
            reconcile_scope.reset(token)

    async def _call(self, request: Request) -> Result | None:
        limit = self.controller.reconcile_timeout
        if limit is None:
            return await self.controller.reconciler.reconcile(request)
        try:
            async with asyncio.timeout(limit) as scope:
                return await self.controller.reconciler.reconcile(request)
        except TimeoutError:
            if scope.expired():
                self._series.timeouts.inc()
            raise
