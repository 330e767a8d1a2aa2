"""The store of one informer: objects as bytes, indexes, and the rules by which newer knowledge replaces older.

Three sources write to it: the watch, a list (``replace``), and this process's own writes (``inject``), whose answers arrive
before or after their watch events. Resource versions order them: they are integers that grow with every write to a
resource, so an object never goes back to an older version, whichever source is late.

Every method is one synchronous step. ``Store`` is the writer's side; readers hold a ``Lister``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, final

from kaito.runtime.objects.events import Event, EventType
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.selectors import LabelSelector
from kaito.runtime.objects.stored import Stored, revision

T = TypeVar("T")

IndexFunction = Callable[[Stored[Any]], Iterable[str]]


@final
class Store(Generic[T]):
    def __init__(self, resource: Resource[T], *, on_index_error: Callable[[Exception], None]) -> None:
        self.resource = resource
        self.revision = 0
        """The newest resource version that the server has told of, by event, bookmark or list."""
        self.bytes = 0
        """Bytes of all objects."""
        self._objects: dict[Key, Stored[T]] = {}
        self._namespaces: dict[str, dict[Key, None]] = {}
        self._index_functions: dict[str, IndexFunction] = {}
        self._indexes: dict[str, dict[str, dict[Key, None]]] = {}
        self._dying: dict[str, int] = {}
        self._on_index_error = on_index_error

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Stored[T] | None:
        return self._objects.get(key)

    def shared(self, stored: Stored[T]) -> Stored[T]:
        """What is in the store already, where ``stored`` is the same version: a list that is taken again costs no memory."""
        known = self._objects.get(stored.key)
        if known is None or (known.uid, known.resource_version) != (stored.uid, stored.resource_version):
            return stored
        return known

    def snapshot(self, namespace: str = "") -> tuple[Stored[T], ...]:
        """All objects, or those of one namespace; later changes do not show."""
        if not namespace:
            return tuple(self._objects.values())
        return tuple(self._objects[key] for key in self._namespaces.get(namespace, ()))

    def by_index(self, index: str, value: str) -> tuple[Stored[T], ...]:
        """Objects for which the index function gives ``value``. Raises KeyError for an index that was not added."""
        return tuple(self._objects[key] for key in self._indexes[index].get(value, ()))

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Index by ``function`` from now on, including what is stored. Raises ValueError for a name in use."""
        if name in self._index_functions:
            raise ValueError(f"{self.resource.group_resource} already has an index {name!r}")
        self._index_functions[name] = function
        index = self._indexes[name] = {}
        for stored in self._objects.values():
            for value in self._values(function, stored):
                index.setdefault(value, {})[stored.key] = None

    # What the server says

    def upsert(self, stored: Stored[T]) -> Event[T] | None:
        """An ADDED or MODIFIED of the watch; None where it says nothing new."""
        self.advance(stored.revision)
        if stored.uid in self._dying:
            return None
        old = self._objects.get(stored.key)
        if old is not None and 0 <= stored.revision <= old.revision:
            return None
        return self._put(old, stored)

    def remove(self, stored: Stored[T]) -> Event[T] | None:
        """A DELETED of the watch, with the object's last state."""
        self.advance(stored.revision)
        self._dying.pop(stored.uid, None)
        old = self._objects.get(stored.key)
        if old is None or (old.uid != stored.uid and old.revision > stored.revision >= 0):
            return None
        self._drop(old)
        return Event(EventType.DELETED, old=stored)

    def advance(self, resource_version: int) -> None:
        """A bookmark, or any event: everything up to ``resource_version`` has been told."""
        if resource_version > self.revision:
            self.revision = resource_version

    def replace(self, listed: Mapping[Key, Stored[T]], resource_version: str) -> Iterator[Event[T]]:
        """A list as of ``resource_version``: deletions that were missed first, then what is new.

        Each event is applied when it is taken from the iterator, so that the caller may pause between two.
        """
        as_of = revision(resource_version)
        there = {stored.uid for stored in listed.values()}
        # A list from before an own deletion is no word of it: the watch that follows tells of the object once more.
        self._dying = {uid: last for uid, last in self._dying.items() if uid in there or 0 <= as_of < last}
        for key, old in tuple(self._objects.items()):
            # An object that is newer than the list was put here by this process after the list was taken.
            if key not in listed and self._objects.get(key) is old and not (as_of >= 0 and old.revision > as_of):
                self._drop(old)
                yield Event(EventType.DELETED, old=old, final_state_unknown=True)
        for stored in listed.values():
            event = self.upsert(stored)
            if event is not None:
                yield event
        self.advance(as_of)

    # What this process did

    def inject(self, stored: Stored[T]) -> Event[T] | None:
        """The answer to an own write; None where the store knows something at least as new, such as a later deletion."""
        if stored.revision < 0 or stored.uid in self._dying:
            return None
        old = self._objects.get(stored.key)
        newest = old.revision if old is not None else self.revision
        if stored.revision <= newest:
            return None
        return self._put(old, stored)

    def forget(self, key: Key, uid: str) -> Event[T] | None:
        """An own deletion was carried out at once; watch events of that ``uid`` that are still under way are ignored."""
        old = self._objects.get(key)
        if old is None or old.uid != uid:
            return None
        self._dying[uid] = old.revision
        self._drop(old)
        return Event(EventType.DELETED, old=old)

    def _put(self, old: Stored[T] | None, new: Stored[T]) -> Event[T]:
        key = new.key
        self._objects[key] = new
        self.bytes += len(new.data)
        if old is None:
            self._namespaces.setdefault(key.namespace, {})[key] = None
        else:
            self.bytes -= len(old.data)
        for name, function in self._index_functions.items():
            self._reindex(
                self._indexes[name],
                key,
                self._values(function, old) if old is not None else (),
                self._values(function, new),
            )
        if old is None:
            return Event(EventType.ADDED, new=new)
        return Event(EventType.UPDATED, old=old, new=new)

    def _drop(self, old: Stored[T]) -> None:
        key = old.key
        del self._objects[key]
        self.bytes -= len(old.data)
        siblings = self._namespaces[key.namespace]
        del siblings[key]
        if not siblings:
            del self._namespaces[key.namespace]
        for name, function in self._index_functions.items():
            self._reindex(self._indexes[name], key, self._values(function, old), ())

    def _values(self, function: IndexFunction, stored: Stored[T]) -> tuple[str, ...]:
        try:
            return tuple(function(stored))
        except Exception as error:  # an index function of the user's must not stop the informer
            self._on_index_error(error)
            return ()

    @staticmethod
    def _reindex(index: dict[str, dict[Key, None]], key: Key, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        if old == new:
            return
        for value in old:
            if value not in new and value in index:
                index[value].pop(key, None)
                if not index[value]:
                    del index[value]
        for value in new:
            index.setdefault(value, {})[key] = None


@final
class Lister(Generic[T]):
    """The reader's side: synchronous, consistent between two awaits, and never shared with what it returns."""

    __slots__ = ("_check", "_store")

    def __init__(self, store: Store[T], check: Callable[[], None]) -> None:
        self._store = store
        self._check = check

    def get(self, name: str, namespace: str = "") -> T | None:
        """The object, decoded anew. Raises CacheNotStarted before the first list is in, DecodeError."""
        stored = self.stored(name, namespace)
        return None if stored is None else stored.decode()

    def stored(self, name: str, namespace: str = "") -> Stored[T] | None:
        """The object without decoding it."""
        self._check()
        return self._store.get(Key(namespace, name))

    def stored_list(
        self, namespace: str = "", *, labels: LabelSelector | Mapping[str, str] | None = None
    ) -> list[Stored[T]]:
        """As ``list``, without decoding: labels are matched on metadata alone."""
        self._check()
        found = self._store.snapshot(namespace)
        if not labels:
            return list(found)
        selector = labels if isinstance(labels, LabelSelector) else LabelSelector.of(labels)
        return [stored for stored in found if selector.matches(stored.labels)]

    def by_index(self, index: str, value: str) -> list[Stored[T]]:
        """Objects that the index ``index`` files under ``value``. Raises KeyError for an unknown index."""
        self._check()
        return list(self._store.by_index(index, value))

    def __len__(self) -> int:
        return len(self._store)

    def list(self, namespace: str = "", *, labels: LabelSelector | Mapping[str, str] | None = None) -> list[T]:
        """Objects of one namespace, or of all, decoded anew, in no particular order."""
        return [stored.decode() for stored in self.stored_list(namespace, labels=labels)]
