"""The informers of a process: one for each resource, type and scope, shared by everything that reads or watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

from kaito.runtime.cache.informer import Informer, InformerStatus, Scope
from kaito.runtime.cache.store import Lister
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import CacheNotStarted, SyncTimeout
from kaito.runtime.metrics import RuntimeMetrics
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import Stored
from kaito.runtime.tasks import TaskScope
from kaito.runtime.transport.rest import Rest

T = TypeVar("T")

SYNC_TIMEOUT = 120.0
"""Seconds that informers have for their first list; same as controller-runtime's CacheSyncTimeout."""


@final
class Cache:
    """Declared before the start, or added later; then it runs at once.

    Also the ``WriteObserver`` of the client: what this process writes is readable here before the write returns.
    """

    def __init__(self, rest: Rest, metrics: RuntimeMetrics, *, clock: Clock | None = None) -> None:
        self._rest = rest
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._informers: dict[tuple[Resource[Any], Callable[[bytes], Any], Scope], Informer[Any]] = {}
        self._tasks: TaskScope | None = None

    def informer(
        self,
        resource: Resource[T],
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> Informer[T]:
        """The informer of this resource and scope, made on first use.

        A resource that is read as two types has an informer for each: what it hands out decodes to one of them.
        """
        scope = Scope(namespace, labels or LabelSelector(), fields or FieldSelector())
        informer = self._informers.get((resource, resource.decode, scope))
        if informer is None:
            informer = Informer(self._rest, resource, scope, metrics=self._metrics, clock=self._clock)
            self._informers[resource, resource.decode, scope] = informer
            if self._tasks is not None:
                self._tasks.start(f"informer {resource}", informer.run())
        return informer

    def lister(
        self,
        resource: Resource[T],
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> Lister[T]:
        """Synchronous reads of this resource; declares its informer. They raise CacheNotStarted until it has synced."""
        informer = self.informer(resource, namespace=namespace, labels=labels, fields=fields)

        def check() -> None:
            if not informer.synced:
                raise CacheNotStarted(
                    f"{resource} is read from a cache that has not synced yet: wait for the manager's start"
                )

        return informer.lister(check)

    def add_index(self, resource: Resource[T], name: str, values: Callable[[Stored[T]], Iterable[str]]) -> None:
        """File every object of the resource's unscoped informer under the ``values`` it gives."""
        self.informer(resource).add_index(name, values)

    def written(self, resource: Resource[Any], data: bytes) -> None:
        for informer in self._of(resource):
            informer.written(data)

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None:
        for informer in self._of(resource):
            informer.deleted(key, uid)

    def _of(self, resource: Resource[Any]) -> list[Informer[Any]]:
        return [informer for informer in self._informers.values() if informer.resource.names_same(resource)]

    def start(self, tasks: TaskScope) -> None:
        """Run all informers, and those that come later, as tasks of ``tasks``."""
        self._tasks = tasks
        for informer in self._informers.values():
            tasks.start(f"informer {informer.resource}", informer.run())

    async def wait_synced(self, timeout: float = SYNC_TIMEOUT) -> None:
        """Return when every informer has synced. Raises SyncTimeout, which names those that have not, and why."""
        await wait_synced(self._informers.values(), timeout)

    @property
    def synced(self) -> bool:
        return self._tasks is not None and all(informer.synced for informer in self._informers.values())

    def statuses(self) -> list[InformerStatus]:
        return [informer.status() for informer in self._informers.values()]

    def report(self) -> None:
        """Bring the informers' gauges up to date."""
        for informer in self._informers.values():
            informer.report()


async def wait_synced(informers: Iterable[Informer[Any]], timeout: float) -> None:
    """Return when all of ``informers`` have synced; SyncTimeout names those that have not, and their last error."""
    awaited = tuple(informers)
    try:
        async with asyncio.timeout(timeout) as limit:
            for informer in awaited:
                await informer.wait_synced()
    except TimeoutError as error:
        if not limit.expired():
            raise
        late = describe_unsynced(informer.status() for informer in awaited)
        raise SyncTimeout(f"not synced after {timeout:g} s: {late}") from error


def describe_unsynced(statuses: Iterable[InformerStatus]) -> str:
    """One phrase for each informer that has not synced, with its last error."""
    return "; ".join(
        f"{status.resource}: {status.last_error or status.phase.value}" for status in statuses if not status.synced
    )
