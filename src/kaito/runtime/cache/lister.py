"""The reader's side of the cache: synchronous, consistent between two awaits, and never shared with what it returns."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, final

from kaito.runtime.cache.store import Store
from kaito.runtime.errors import DecodeError
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import LabelSelector
from kaito.runtime.objects.stored import Stored

T = TypeVar("T")

_log = get_logger("cache")


def _tell(error: DecodeError) -> None:
    _log.warning("left out an object", error=str(error))


@final
class Lister(Generic[T]):
    """Reads one resource, as one type, from the stores of its scope: several where that names several namespaces.

    Every read raises CacheNotStarted before the first list is in, NotCached once the informer has been removed. Lists leave
    out, count and log an object that does not decode: what is wrong with one must not keep the others. Where an object that
    is missing would lead to harm, look at ``stored_list``, which needs nothing but metadata.
    """

    __slots__ = ("_check", "_resource", "_skipped", "_stores")

    def __init__(
        self,
        stores: Store[Any] | Sequence[Store[Any]],
        check: Callable[[], None],
        *,
        resource: Resource[T] | None = None,
        on_skipped: Callable[[DecodeError], None] = _tell,
    ) -> None:
        self._stores: tuple[Store[Any], ...] = (stores,) if isinstance(stores, Store) else tuple(stores)
        self._check = check
        self._resource: Resource[T] = resource or self._stores[0].resource
        self._skipped = on_skipped

    def get(self, name: str, namespace: str = "") -> T | None:
        """The object, decoded anew. Raises DecodeError."""
        stored = self.stored(name, namespace)
        return None if stored is None else stored.decode()

    def stored(self, name: str, namespace: str = "") -> Stored[T] | None:
        """The object without decoding it."""
        self._check()
        key = Key(namespace, name)
        for store in self._stores:
            stored = store.get(key)
            if stored is not None:
                return stored.read_as(self._resource)
        return None

    def list(self, namespace: str = "", *, labels: LabelSelector | Mapping[str, str] | None = None) -> list[T]:
        """Objects of one namespace, or of all, decoded anew, in no particular order."""
        return self.decoded(self.stored_list(namespace, labels=labels))

    def stored_list(
        self, namespace: str = "", *, labels: LabelSelector | Mapping[str, str] | None = None
    ) -> builtins.list[Stored[T]]:
        """As ``list``, without decoding: labels are matched on metadata alone, by an index where they name a value."""
        self._check()
        if not labels:
            return self._read(stored for store in self._stores for stored in store.snapshot(namespace))
        selector = labels if isinstance(labels, LabelSelector) else LabelSelector.of(labels)
        found: builtins.list[Stored[T]] = []
        for store in self._stores:
            keys = store.indexes.selected(selector)
            candidates = store.snapshot(namespace) if keys is None else _of(store, keys, namespace)
            found += self._read(stored for stored in candidates if selector.matches(stored.labels))
        return found

    def by_label(self, key: str, value: str, namespace: str = "") -> builtins.list[Stored[T]]:
        """Objects with the label ``key`` of that value; takes as long as there are such objects, from the second call on."""
        return self._by(lambda store: store.indexes.label(key).keys(value), namespace)

    def by_owner(self, uid: str, namespace: str = "") -> builtins.list[Stored[T]]:
        """Objects of which the object with this uid is an owner; as fast as ``by_label``."""
        return self._by(lambda store: store.indexes.owners().keys(uid), namespace)

    def by_index(self, index: str, value: str, namespace: str = "") -> builtins.list[Stored[T]]:
        """Objects that the index ``index`` files under ``value``. Raises KeyError for an index that was not added."""
        return self._by(lambda store: store.indexes.named(index).keys(value), namespace)

    def tally(self, index: str) -> dict[str, int]:
        """How many objects the index ``index`` files under each value, whatever they are. Raises KeyError as ``by_index``."""
        self._check()
        found: dict[str, int] = {}
        for store in self._stores:
            for value, count in store.indexes.named(index).counts():
                found[value] = found.get(value, 0) + count
        return found

    def decoded(self, found: Iterable[Stored[T]]) -> builtins.list[T]:
        """What ``found`` decodes to, without objects that do not decode."""
        objects: builtins.list[T] = []
        for stored in found:
            try:
                objects.append(stored.decode())
            except DecodeError as error:
                self._skipped(error)
        return objects

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores)

    def _by(self, keys: Callable[[Store[Any]], Iterable[Key]], namespace: str) -> builtins.list[Stored[T]]:
        self._check()
        return [stored for store in self._stores for stored in self._read(_of(store, keys(store), namespace))]

    def _read(self, found: Iterable[Stored[Any]]) -> builtins.list[Stored[T]]:
        resource = self._resource
        return [stored.read_as(resource) for stored in found]


def _of(store: Store[Any], keys: Iterable[Key], namespace: str) -> Iterable[Stored[Any]]:
    for key in keys:
        if not namespace or key.namespace == namespace:
            stored = store.get(key)
            assert stored is not None, "an index holds what the store holds"
            yield stored
