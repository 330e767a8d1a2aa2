"""A running controller: workers that take keys from its queue and call its reconciler."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from typing import Any, final

from kaito.runtime.cache.cache import Cache, wait_synced
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.registration import Registration
from kaito.runtime.control.controller import Controller, Watch
from kaito.runtime.control.mapping import Mapping
from kaito.runtime.control.reconcile import Request, Result
from kaito.runtime.control.workqueue import QueueShutDown, WorkQueue
from kaito.runtime.errors import ConfigError, TerminalError
from kaito.runtime.fairness import Holds
from kaito.runtime.log import ReconcileScope, get_logger, reconcile_scope
from kaito.runtime.metrics.controllers import ControllerMetrics
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.resource import Key
from kaito.runtime.tasks import TaskScope, asked_to_end

_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Errors that no correct program raises: counted as panics, contained like any other."""

_log = get_logger("controller")


@final
class Subscription:
    """A watch of a running controller."""

    __slots__ = ("_forget", "places")

    def __init__(
        self, places: tuple[tuple[Informer[Any], Registration], ...], forget: Callable[[Subscription], None]
    ) -> None:
        self.places = places
        self._forget = forget

    def remove(self) -> None:
        """What the watch would find counts no more; keys that it has queued stay. Idempotent."""
        for _, registration in self.places:
            registration.remove()
        self._forget(self)

    async def handed_over(self, timeout: float) -> None:
        """Return when its informers have synced and everything that was there has been handed to it. Raises SyncTimeout."""
        await wait_synced([informer for informer, _ in self.places], timeout)
        for _, registration in self.places:
            await registration.caught_up()


@final
class ControllerRun:
    """One running controller; what ``Manager.add`` returns."""

    def __init__(self, controller: Controller, cache: Cache, metrics: RuntimeMetrics) -> None:
        self.controller = controller
        self._cache = cache
        self._queue: WorkQueue[Key] = WorkQueue(rate_limiter=controller.rate_limiter())
        self._holds = Holds(metrics)
        self._mapping = Mapping(controller.name, self._add, metrics, self._holds)
        self._subscriptions: dict[Subscription, int] = {}
        self._causes: dict[Key, set[str]] = {}
        self._series: ControllerMetrics = metrics.for_controller(controller.name, controller.max_concurrent)
        self._metrics = metrics
        metrics.watch_queue(controller.name, self._queue.statistics)
        self._workers = TaskScope(self._worker_failed)
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._running = False

    def declare(self) -> None:
        """Make the informers that the controller needs, so that they sync with the rest of the cache."""
        for watch in self.controller.watched():
            self._informers(watch)

    def enqueue(self, key: Key, *, priority: int = 0, after: float = 0.0) -> None:
        """Reconcile ``key``, ``after`` seconds from now, whatever the cache says of it."""
        if (causes := self._causes.get(key)) is not None:
            causes.add("")
        self._queue.add(key, priority=priority, after=after)

    def _add(self, key: Key, priority: int, cause: str) -> None:
        if (causes := self._causes.get(key)) is not None:
            causes.add(cause)
        self._queue.add(key, priority=priority)

    async def run(self) -> None:
        """Follow the sources and reconcile until stopped or cancelled: then finish what is being reconciled, and return.

        Raises SyncTimeout, and whatever a worker could not contain.
        """
        self._running = True
        try:
            subscriptions = [self._subscribe(watch) for watch in self.controller.watched()]
            for subscription in subscriptions:
                # Once handed over, every key is queued before a worker starts.
                await subscription.handed_over(self.controller.sync_timeout)
            await self.work()
        finally:
            self._running = False
            for subscription in tuple(self._subscriptions):
                subscription.remove()
            self._metrics.forget_queue(self.controller.name)
            self._ended.set()

    async def stop(self) -> None:
        """Finish what is being reconciled, then end. Idempotent; its informers stay until ``Cache.remove``."""
        if not self._end.done():
            self._end.set_result(None)
        if self._running:
            await self._ended.wait()

    async def add_watch(self, watch: Watch[Any]) -> Subscription:
        """Also reconcile what ``watch`` finds, until the subscription is removed; returns when it has synced.

        Raises ConfigError where the controller does not run, SyncTimeout.
        """
        if not self._running:
            raise ConfigError(f"controller {self.controller.name}: it does not run, so no watch can be added")
        subscription = self._subscribe(watch)
        try:
            await subscription.handed_over(self.controller.sync_timeout)
        except BaseException:
            subscription.remove()
            raise
        return subscription

    async def work(self) -> None:
        """Reconcile what is queued, until stopped or cancelled: then finish what is being reconciled."""
        for number in range(self.controller.max_concurrent):
            # A fresh context: what the starter has bound must not show in the workers' logs.
            Context().run(self._workers.start, f"{self.controller.name} worker {number}", self._work())
        feeders = TaskScope(self._worker_failed)
        feeders.start(f"{self.controller.name} resync", self._resync())
        feeders.start(f"{self.controller.name} mapping", self._mapping.run())
        for number, source in enumerate(self.controller.sources):
            Context().run(feeders.start, f"{self.controller.name} source {number}", source.run(self.enqueue))
        try:
            await self._end
        finally:
            self._queue.shut_down()
            self._mapping.shut_down()
            try:
                await feeders.aclose()
                await self._workers.join()
            finally:
                # Reached early only when the manager's patience has run out: what still reconciles is cancelled.
                await feeders.aclose()
                await self._workers.aclose()

    def _informers(self, watch: Watch[Any]) -> tuple[Informer[Any], ...]:
        return self._cache.informers(
            watch.resource, namespaces=watch.namespaces, labels=watch.labels, fields=watch.fields
        )

    def _subscribe(self, watch: Watch[Any]) -> Subscription:
        number, handler = self._mapping.handler(watch.resource, watch.to, watch.predicate)
        places = tuple((informer, informer.add_handler(handler, watch.resource)) for informer in self._informers(watch))
        subscription = Subscription(places, self._forget)
        self._subscriptions[subscription] = number
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        number = self._subscriptions.pop(subscription, None)
        if number is not None:
            self._mapping.forget(number)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.controller.resync_period * random.uniform(0.9, 1.1))
            for subscription in tuple(self._subscriptions):
                for informer, registration in subscription.places:
                    await informer.resync(registration)

    def _worker_failed(self, name: str, error: BaseException) -> None:
        if self._end.done():
            _log.error("a worker failed while its controller was stopping", worker=name, error=repr(error))
        else:
            self._end.set_exception(error)

    async def _work(self) -> None:
        queue, give_way = self._queue, self._cache.budget.give_way
        while True:
            await give_way()
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
        scope = ReconcileScope(controller.name, key.namespace, key.name)
        token = reconcile_scope.set(scope)
        self._causes[key] = set()
        series.active += 1
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "error"
        try:
            result = await self._holds.run(controller.name, self._call(Request(key, queue.failures(key))))
            outcome = self._succeeded(key, priority, result, scope.writes)
        except TerminalError as error:
            series.failed(type(error).__name__)
            series.terminal_errors += 1
            queue.forget(key)
            _log.error("reconcile failed for good", error=str(error))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and asked_to_end():
                raise
            # A reconcile that awaits something which somebody else has cancelled fails like any other.
            series.failed(type(error).__name__)
            if isinstance(error, _BUGS):
                series.panics += 1
            self._again(key, priority, scope.writes)
            _log.warning(
                "reconcile failed", error=f"{type(error).__name__}: {error}", attempt=queue.failures(key), exc_info=True
            )
        finally:
            del self._causes[key]
            series.results[outcome] += 1
            series.time.observe(loop.time() - started)
            series.active -= 1
            reconcile_scope.reset(token)

    def _succeeded(self, key: Key, priority: int, result: Result | None, own_writes: set[str]) -> str:
        """Queue the next look that ``result`` asks for; the outcome's name in the metrics."""
        if result is None or result.requeue_after is None:
            self._queue.forget(key)
            return "success"
        again = priority if result.priority is None else result.priority
        if result.requeue_after <= 0:
            self._again(key, again, own_writes)
            return "requeue"
        self._queue.forget(key)
        # What was added while this ran is served at once; this only makes sure of another look later.
        self._queue.add(key, after=result.requeue_after, priority=again)
        return "requeue_after"

    def _again(self, key: Key, priority: int, own_writes: set[str]) -> None:
        """Another look after the rate limiter's delay; at once only if somebody else changed something meanwhile."""
        if self._causes[key] <= own_writes:
            self._queue.retract(key)
        self._queue.add_rate_limited(key, priority=priority)

    async def _call(self, request: Request) -> Result | None:
        limit = self.controller.reconcile_timeout
        if limit is None:
            return await self.controller.reconciler.reconcile(request)
        try:
            async with asyncio.timeout(limit) as scope:
                return await self.controller.reconciler.reconcile(request)
        except TimeoutError:
            if scope.expired():
                self._series.timeouts += 1
            raise
