"""The storage of the API server: objects as immutable JSON bytes, ordered by one revision counter.

Everything here is synchronous and runs on the event loop, so that each write is atomic and all of them have one total
order. A collection holds the objects of one resource in all its versions, hence its bytes carry neither ``apiVersion``
nor ``kind``; the served version puts them in front.

A bounded log of changes serves both history needs: watches resume from it, and a list as of an earlier revision (the
further pages of a paged list) is the present list with the later changes undone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kaito.runtime import Expired

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Object = dict[str, Any]
"""A decoded object, with ``apiVersion`` and ``kind``."""

NO_FIELDS: Mapping[str, str] = {}

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Object).decode


@dataclass(frozen=True, slots=True)
class Record:
    """One object as stored at one revision. ``path`` is ``namespace/name``, or ``name`` where there is no namespace."""

    path: str
    revision: int
    body: bytes
    """JSON object without ``apiVersion`` and ``kind``; ``metadata.resourceVersion`` is ``revision``."""
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    """The selectable fields beside ``metadata.name`` and ``metadata.namespace``."""
    expires: float | None = None
    """Unix time after which the object may be dropped."""

    @property
    def namespace(self) -> str:
        namespace, slash, _ = self.path.rpartition("/")
        return namespace if slash else ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def at(self, revision: int) -> Record:
        """The same state, stamped with another revision, as the DELETED event of a watch carries it."""
        obj = decode(self.body)
        obj["metadata"]["resourceVersion"] = str(revision)
        return Record(self.path, revision, encode(obj), self.labels, self.fields, self.expires)


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write: created (``old`` None), updated, or deleted (``new`` None)."""

    revision: int
    old: Record | None
    new: Record | None


@dataclass(frozen=True, slots=True)
class Backup:
    """Everything that a store held at one revision, as a snapshot of etcd does."""

    revision: int
    records: Mapping[str, Mapping[str, Record]]


Listener = Callable[[Change | None], None]


@dataclass(slots=True)
class Store:
    """The revision counter and the collections that share it."""

    window: int = 10_000
    """How many changes a collection remembers."""
    revision: int = 1
    collections: dict[str, Collection] = field(default_factory=dict)

    def collection(self, name: str) -> Collection:
        """The collection of a resource (``plural.group``), made when first asked for."""
        found = self.collections.get(name)
        if found is None:
            found = self.collections[name] = Collection(self, name)
        return found

    def drop(self, name: str) -> None:
        """Forget a collection, whose objects must have been removed, and end the watches of it."""
        self.collections.pop(name).end()

    def back_up(self) -> Backup:
        records = {name: dict(collection.records) for name, collection in self.collections.items()}
        return Backup(self.revision, records)

    def restore(self, backup: Backup) -> None:
        """Go back to ``backup``: later writes never happened, and their revisions are given to others.

        Raises ValueError where the resources are not those of the backup: what is served does not follow a restore.
        """
        definitions = "customresourcedefinitions.apiextensions.k8s.io"
        if backup.records.get(definitions) != self.collection(definitions).records:
            raise ValueError("custom resource definitions have changed since the backup: it cannot be restored here")
        self.revision = backup.revision
        for name, collection in self.collections.items():
            collection.restore(backup.records.get(name, {}))

    def compact(self) -> None:
        """Forget all history: watches and pages from before now are too old."""
        for collection in self.collections.values():
            collection.forget_history()


class Collection:
    """The objects of one resource, in the order of their paths, and the log of their latest changes."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.revision = store.revision
        """Revision of the latest change."""
        self.compacted = 0
        """Changes up to this revision are forgotten."""
        self._store = store
        self._records: dict[str, Record] = {}
        self._paths: list[str] = []
        self._log: deque[Change] = deque()
        self._listeners: dict[int, Listener] = {}
        self._next_listener = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """All records, in order."""
        return map(self._records.__getitem__, tuple(self._paths))

    @property
    def records(self) -> Mapping[str, Record]:
        """By path."""
        return self._records

    def restore(self, records: Mapping[str, Record]) -> None:
        self._records = dict(records)
        self._paths = sorted(records)
        self.revision = self._store.revision
        self.forget_history()

    def get(self, path: str) -> Record | None:
        return self._records.get(path)

    def within(self, namespace: str) -> list[Record]:
        """The records of one namespace, or of all with ``""``, in order."""
        return _within(self._records, self._paths, namespace)

    def at(self, revision: int, namespace: str = "") -> list[Record]:
        """The records as they were at ``revision``. Raises Expired when that is before the remembered history."""
        if revision >= self.revision:
            return self.within(namespace)
        records = dict(self._records)
        for change in reversed(list(self.since(revision))):
            if change.old is not None:
                records[change.old.path] = change.old
            elif change.new is not None:
                del records[change.new.path]
        return _within(records, sorted(records), namespace)

    def since(self, revision: int) -> Iterator[Change]:
        """The changes strictly after ``revision``, oldest first. Raises Expired when some of them are forgotten."""
        if revision < self.compacted:
            raise Expired(f"too old resource version: {revision} ({self.compacted})")
        return (change for change in tuple(self._log) if change.revision > revision)

    def put(self, path: str, obj: Object, fields: Mapping[str, str], *, expires: float | None = None) -> Record:
        """Create or replace the object at ``path``; stamps ``metadata.resourceVersion`` on ``obj`` itself."""
        old = self._records.get(path)
        self._store.revision += 1
        revision = self._store.revision
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(revision)
        body = encode({name: value for name, value in obj.items() if name not in ("apiVersion", "kind")})
        record = Record(path, revision, body, metadata.get("labels") or NO_FIELDS, fields, expires)
        if old is None:
            insort(self._paths, path)
        self._records[path] = record
        self._commit(Change(revision, old, record))
        return record

    def remove(self, path: str) -> Record:
        """Delete the object at ``path``, which must exist; returns its last state."""
        old = self._records.pop(path)
        del self._paths[bisect_left(self._paths, path)]
        self._store.revision += 1
        self._commit(Change(self._store.revision, old, None))
        return old

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` synchronously with each change from now on; returns the function that ends it.

        The resource's own end is told as None.
        """
        self._next_listener += 1
        number = self._next_listener
        self._listeners[number] = listener

        def unsubscribe() -> None:
            self._listeners.pop(number, None)

        return unsubscribe

    def end(self) -> None:
        for listener in tuple(self._listeners.values()):
            listener(None)

    def forget_history(self) -> None:
        self._log.clear()
        self.compacted = self._store.revision

    def _commit(self, change: Change) -> None:
        self.revision = change.revision
        self._log.append(change)
        while len(self._log) > self._store.window:
            self.compacted = self._log.popleft().revision
        for listener in tuple(self._listeners.values()):
            listener(change)


def _within(records: Mapping[str, Record], paths: list[str], namespace: str) -> list[Record]:
    if not namespace:
        return [records[path] for path in paths]
    # "0" is the character after "/": the half-open range holds exactly the paths below "namespace/".
    start, end = bisect_left(paths, f"{namespace}/"), bisect_left(paths, f"{namespace}0")
    return [records[path] for path in paths[start:end]]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; unlike ``==`` it tells ``true`` from ``1``."""
    return bool(one == other) and encode_sorted(one) == encode_sorted(other)


def encode_sorted(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
