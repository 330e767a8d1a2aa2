"""The declaration of a controller: events of some resources become keys, keys become calls of a reconciler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kaito.runtime.cache.cache import SYNC_TIMEOUT
from kaito.runtime.control.mapping import Mapper
from kaito.runtime.control.ratelimit import ExponentialRateLimiter, RateLimiter
from kaito.runtime.control.reconcile import Reconciler
from kaito.runtime.control.sources import Source
from kaito.runtime.errors import ConfigError
from kaito.runtime.objects.events import Predicate
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import Stored

T = TypeVar("T")

RESYNC_PERIOD = 10 * 3600.0
"""Seconds after which every object is reconciled again, ±10 %; same as controller-runtime's SyncPeriod."""


@dataclass(frozen=True)
class Scoped(Generic[T]):
    """Some of a resource's objects: in ``Controller`` wherever a resource stands. The server sends no others."""

    resource: Resource[T]
    namespaces: Sequence[str] = ()
    """Empty: those of the cache, which is all of them unless the manager was told otherwise."""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None
    predicate: Predicate | None = None
    """Which of their events count."""


@dataclass(frozen=True)
class Watch(Generic[T]):
    """Another resource whose changes concern the controller's objects. Scopes are as in ``Scoped``."""

    resource: Resource[T]
    to: Callable[[Stored[T]], Iterable[Key]]
    predicate: Predicate | None = None
    namespaces: Sequence[str] = ()
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None


@dataclass(frozen=True)
class Controller:
    """The declaration of a controller; the manager runs it."""

    name: str
    """Unique in the process; label of its metrics."""
    reconciler: Reconciler
    primary: Resource[Any] | Scoped[Any] | None = None
    """The resource whose objects it reconciles; None where its keys come from watches and sources alone."""
    owns: Sequence[Resource[Any] | Scoped[Any]] = ()
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
        if isinstance(self.primary, Scoped) and self.primary.predicate is not None and self.predicate is not None:
            raise ConfigError(f"controller {self.name}: it has two predicates for its primary resource; use all_of")

    def watched(self) -> list[Watch[Any]]:
        """Everything it watches, its own resource first."""
        if self.primary is None:
            return list(self.watches)
        primary = _scoped(self.primary)
        own = _watch(primary, lambda stored: (stored.key,), primary.predicate or self.predicate)
        owned = [_watch(scope, owner_keys(primary.resource), scope.predicate) for scope in map(_scoped, self.owns)]
        return [own, *owned, *self.watches]


def _scoped(what: Resource[Any] | Scoped[Any]) -> Scoped[Any]:
    return what if isinstance(what, Scoped) else Scoped(what)


def _watch(scope: Scoped[Any], to: Mapper, predicate: Predicate | None) -> Watch[Any]:
    return Watch(scope.resource, to, predicate, scope.namespaces, scope.labels, scope.fields)


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
