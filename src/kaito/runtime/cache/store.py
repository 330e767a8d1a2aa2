"""The store of one informer: objects as bytes, indexes, and the rules by which newer knowledge replaces older.

Three sources write to it: the watch, a list (``replace``), and this process's own writes (``inject``), whose answers arrive
before or after their watch events. Resource versions order them: they are integers that grow with every write to a
resource, so an object never goes back to an older version, whichever source is late.

Every method is one synchronous step. ``Store`` is the writer's side; readers hold a ``Lister``.

History can go back: a server restored from a backup tells of older versions, and means it. A consistent list that is older
than what the server itself has told before is the proof, and replaces everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar, final

from kaito.runtime.cache.indexes import Indexes, IndexFunction
from kaito.runtime.objects.events import Event, EventType
from kaito.runtime.objects.resource import Key, Resource
from kaito.runtime.objects.stored import Stored, revision

T = TypeVar("T")


class Known(NamedTuple):
    newest: int
    """The newest resource version, by whatever way it was learnt."""
    deleted: frozenset[str]
    """Uids that this process has deleted and no list has been without yet."""


@final
class Store(Generic[T]):
    def __init__(self, resource: Resource[T], *, on_index_error: Callable[[Exception], None]) -> None:
        self.resource = resource
        self.revision = 0
        """The newest resource version that the server has told of, by event, bookmark or list."""
        self._newest = 0
        self.bytes = 0
        """Bytes of all objects."""
        self._objects: dict[Key, Stored[T]] = {}
        self._namespaces: dict[str, dict[Key, None]] = {}
        self._dying: dict[str, int] = {}
        self.indexes = Indexes(self._objects, on_index_error)

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Stored[T] | None:
        return self._objects.get(key)

    def shared(self, stored: Stored[T]) -> Stored[T]:
        """What is in the store already, where ``stored`` is the same version: a list that is taken again costs no memory."""
        known = self._objects.get(stored.key)
        return known if known is not None and _same_version(known, stored) else stored

    def snapshot(self, namespace: str = "") -> tuple[Stored[T], ...]:
        """All objects, or those of one namespace; later changes do not show."""
        if not namespace:
            return tuple(self._objects.values())
        return tuple(self._objects[key] for key in self._namespaces.get(namespace, ()))

    def add_index(self, name: str, function: IndexFunction) -> None:
        """Index by ``function`` from now on, including what is stored. Raises ValueError for a name in use."""
        if not self.indexes.add(name, function):
            raise ValueError(f"{self.resource.group_resource} already has an index {name!r}")

    def known(self) -> Known:
        """What a consistent list that is asked for now cannot contradict, unless history went back."""
        return Known(self._newest, frozenset(self._dying))

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
            self._newest = max(self._newest, resource_version)

    def replace(
        self, listed: Mapping[Key, Stored[T]], resource_version: str, *, known: Known | None = None
    ) -> Iterator[Event[T]]:
        """A list as of ``resource_version``: deletions that were missed first, then what is new.

        ``known`` is what was known when a consistent list was asked for, None for one that may be outdated. Each event is
        applied when it is taken from the iterator, so that the caller may pause between two.
        """
        as_of = revision(resource_version)
        there = {stored.uid for stored in listed.values()}
        if known is not None and (0 <= as_of < known.newest or not there.isdisjoint(known.deleted)):
            yield from self._rewind(listed, as_of, known)
            return
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

    def _rewind(self, listed: Mapping[Key, Stored[T]], as_of: int, known: Known) -> Iterator[Event[T]]:
        """History went back: what is not in the list does not exist, and older versions are the true ones."""
        self.revision = self._newest = as_of
        self._dying = {uid: last for uid, last in self._dying.items() if uid not in known.deleted}
        before = dict(self._objects)
        for key, old in before.items():
            if key not in listed and self._objects.get(key) is old:
                self._drop(old)
                yield Event(EventType.DELETED, old=old, final_state_unknown=True)
        for key, stored in listed.items():
            now = self._objects.get(key)
            written_meanwhile = now is not before.get(key) and now is not None and now.revision >= stored.revision
            if written_meanwhile or stored.uid in self._dying or (now is not None and _same_version(now, stored)):
                continue
            yield self._put(now, stored)

    # What this process did

    def inject(self, stored: Stored[T]) -> Event[T] | None:
        """The answer to an own write; None where the store knows something at least as new, such as a later deletion."""
        if stored.revision < 0 or stored.uid in self._dying:
            return None
        old = self._objects.get(stored.key)
        newest = old.revision if old is not None else self.revision
        if stored.revision <= newest:
            return None
        self._newest = max(self._newest, stored.revision)
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
        self.indexes.put(new)
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
        self.indexes.drop(key)


def _same_version(one: Stored[T], other: Stored[T]) -> bool:
    # The data, too: a server whose history went back gives its versions out again.
    return (one.uid, one.resource_version) == (other.uid, other.resource_version) and one.data == other.data
