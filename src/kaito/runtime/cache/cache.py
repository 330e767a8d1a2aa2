"""The informers of a process: one for each resource and scope, shared by everything that reads or watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, final

import msgspec
from msgspec.structs import replace

from kaito.runtime.cache.informer import Informer, InformerStatus
from kaito.runtime.cache.lister import Lister
from kaito.runtime.cache.scope import Scope
from kaito.runtime.clock import Clock, SystemClock
from kaito.runtime.errors import CacheNotStarted, ConfigError, NotCached, SyncTimeout
from kaito.runtime.fairness import LoopBudget
from kaito.runtime.log import reconcile_scope
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import Stored, resource_version_of
from kaito.runtime.objects.transforms import Transform
from kaito.runtime.tasks import TaskScope, cancel_and_wait
from kaito.runtime.transport.rest import Rest

T = TypeVar("T")

SYNC_TIMEOUT = 120.0
"""Seconds that informers have for their first list; same as controller-runtime's CacheSyncTimeout."""


class _Place(msgspec.Struct, frozen=True):
    """What an informer is shared by: a resource, whatever it is read as, and a scope."""

    resource: Resource[Any]
    scope: Scope


class _Entry(msgspec.Struct, eq=False):
    informer: Informer[Any]
    task: asyncio.Task[Any] | None = None
    removed: bool = False


@final
class Cache:
    """Declared before the start, or added later; then it runs at once.

    Also the ``WriteObserver`` of the client: what this process writes is readable here before the write returns.
    """

    def __init__(
        self,
        rest: Rest,
        metrics: RuntimeMetrics,
        *,
        clock: Clock | None = None,
        namespaces: Sequence[str] = (),
        budget: LoopBudget | None = None,
    ) -> None:
        """``namespaces`` are those that namespaced resources are read in where nothing else is said; empty for all."""
        self._rest = rest
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._namespaces = tuple(namespaces)
        self.budget = budget or LoopBudget()
        """Shared by all long work of the process."""
        self._entries: dict[_Place, _Entry] = {}
        self._transforms: dict[str, Transform] = {}
        self._tasks: TaskScope | None = None

    def transform(self, resource: Resource[Any], transform: Transform) -> None:
        """Keep objects of ``resource`` as ``transform`` makes them, such as ``DropFields("status.images")``.

        Only for fields that nobody here reads, or writes by ``Client.update``. Raises ConfigError where the resource has
        another transform, or an informer already.
        """
        name = resource.group_resource
        if self._transforms.get(name) == transform:
            return
        if name in self._transforms:
            raise ConfigError(
                f"{name} already has the transform {self._transforms[name]!r}: it cannot have {transform!r}, too"
            )
        if self._of(resource):
            raise ConfigError(f"the transform of {name} comes too late: declare it before whoever reads {name}")
        self._transforms[name] = transform

    def informer(
        self,
        resource: Resource[T],
        *,
        namespace: str = "",
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> Informer[T]:
        """The informer of this resource in one namespace, or in all, whatever namespaces others read by default."""
        return self._entry(resource, Scope(namespace, labels or LabelSelector(), fields or FieldSelector())).informer

    def informers(
        self,
        resource: Resource[T],
        *,
        namespaces: Sequence[str] = (),
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> tuple[Informer[T], ...]:
        """The informers of this resource and scope, one for each of ``namespaces``; made on first use.

        Readers of all types share them: typed, as plain values, or as metadata, which alone asks for no more than that.
        """
        return tuple(
            self._entry(resource, scope).informer for scope in self._scopes(resource, namespaces, labels, fields)
        )

    def lister(
        self,
        resource: Resource[T],
        *,
        namespaces: Sequence[str] = (),
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> Lister[T]:
        """Synchronous reads of this resource; declares its informers. They raise CacheNotStarted until those have synced."""
        scopes = self._scopes(resource, namespaces, labels, fields)
        entries = [(_Place(resource, scope), self._entry(resource, scope)) for scope in scopes]

        def check() -> None:
            for place, entry in entries:
                if not entry.informer.synced:
                    raise CacheNotStarted(
                        f"{resource} is read from a cache that has not synced yet: wait for the manager's start"
                    )
                if entry.removed:
                    raise NotCached(f"{place.resource} is read from a cache whose informer has been removed")

        informers = [entry.informer for _, entry in entries]
        return Lister(
            [informer.store for informer in informers], check, resource=resource, on_skipped=informers[0].skipped
        )

    def add_index(
        self,
        resource: Resource[T],
        name: str,
        values: Callable[[Stored[T]], Iterable[str]],
        *,
        namespaces: Sequence[str] = (),
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> None:
        """File every object of this resource and scope under the ``values`` it gives; read by ``Lister.by_index``."""

        def read(stored: Stored[Any]) -> Iterable[str]:
            return values(stored.read_as(resource))

        for informer in self.informers(resource, namespaces=namespaces, labels=labels, fields=fields):
            informer.add_index(name, read)

    async def remove(
        self,
        resource: Resource[Any],
        *,
        namespaces: Sequence[str] = (),
        labels: LabelSelector | None = None,
        fields: FieldSelector | None = None,
    ) -> None:
        """End the informers of this resource and scope and let go of what they hold. Idempotent.

        Listers of theirs raise NotCached from then on, and handlers hear nothing more.
        """
        for scope in self._scopes(resource, namespaces, labels, fields):
            for place in (
                _Place(resource, scope),
                _Place(replace(resource, metadata_only=True), scope),
            ):
                entry = self._entries.pop(place, None)
                if entry is not None:
                    entry.removed = True
                    if entry.task is not None:
                        await cancel_and_wait(entry.task)

    def written(self, resource: Resource[Any], data: bytes) -> None:
        scope = reconcile_scope.get()
        if scope is not None:
            scope.writes.add(resource_version_of(data))
        for informer in self._of(resource):
            informer.written(data)

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None:
        scope = reconcile_scope.get()
        if scope is not None:
            scope.writes.add(uid)
        for informer in self._of(resource):
            informer.deleted(key, uid)

    def _scopes(
        self,
        resource: Resource[Any],
        namespaces: Sequence[str],
        labels: LabelSelector | None,
        fields: FieldSelector | None,
    ) -> list[Scope]:
        if isinstance(namespaces, str):
            raise ConfigError(f"namespaces is {namespaces!r}: it must be a list of names")
        names = (namespaces or self._namespaces or ("",)) if resource.namespaced else ("",)
        return [Scope(name, labels or LabelSelector(), fields or FieldSelector()) for name in sorted(set(names))]

    def _entry(self, resource: Resource[Any], scope: Scope) -> _Entry:
        whole, metadata = (
            replace(resource, metadata_only=False),
            replace(resource, metadata_only=True),
        )
        entry = self._entries.get(_Place(whole, scope))
        if entry is not None:
            return entry
        entry = self._entries.get(_Place(metadata, scope))
        if entry is not None:
            if resource.metadata_only:
                return entry
            if not entry.informer.running:
                entry.informer.widen(resource)
                self._entries[_Place(whole, scope)] = self._entries.pop(_Place(metadata, scope))
                return entry
        informer = Informer(
            self._rest,
            resource,
            scope,
            metrics=self._metrics,
            clock=self._clock,
            budget=self.budget,
            transform=self._transforms.get(resource.group_resource),
        )
        entry = self._entries[_Place(resource, scope)] = _Entry(informer)
        if self._tasks is not None:
            self._run(entry, self._tasks)
        return entry

    def _of(self, resource: Resource[Any]) -> list[Informer[Any]]:
        return [informer for informer in self._informers() if informer.resource.names_same(resource)]

    def _informers(self) -> list[Informer[Any]]:
        return [entry.informer for entry in self._entries.values()]

    @staticmethod
    def _run(entry: _Entry, tasks: TaskScope) -> None:
        entry.task = tasks.start(f"informer {entry.informer.resource}", entry.informer.run())

    def start(self, tasks: TaskScope) -> None:
        """Run all informers, and those that come later, as tasks of ``tasks``."""
        self._tasks = tasks
        for entry in self._entries.values():
            self._run(entry, tasks)

    async def wait_synced(self, timeout: float = SYNC_TIMEOUT) -> None:
        """Return when every informer has synced. Raises SyncTimeout, which names those that have not, and why."""
        await wait_synced(self._informers(), timeout)

    @property
    def synced(self) -> bool:
        return self._tasks is not None and all(informer.synced for informer in self._informers())

    def statuses(self) -> list[InformerStatus]:
        return [informer.status() for informer in self._informers()]

    def report(self) -> None:
        """Bring the informers' gauges up to date."""
        for informer in self._informers():
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
