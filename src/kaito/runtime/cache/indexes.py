"""Indexes of a store: its objects by the values that a function gives each, kept up with every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from kaito.runtime.objects.resource import Key
from kaito.runtime.objects.selectors import IN, LabelSelector
from kaito.runtime.objects.stored import Stored

IndexFunction = Callable[[Stored[Any]], Iterable[str]]
"""The values under which an object is filed; it should ``peek`` where it looks at the object, which others do, too. An
object for which it raises is filed under none."""

MAX_SELECTED = 16
"""Label names, chosen by the selectors of lists, that are indexed at a time: users bring selectors, too."""

_OWNERS = b'"ownerReferences"'


@final
class Index:
    __slots__ = ("_filed", "_function", "_keys", "_on_error")

    def __init__(
        self, function: IndexFunction, on_error: Callable[[Exception], None], objects: Iterable[Stored[Any]]
    ) -> None:
        self._function = function
        self._on_error = on_error
        self._keys: dict[str, dict[Key, None]] = {}
        self._filed: dict[Key, tuple[str, ...]] = {}
        for stored in objects:
            self.put(stored)

    def __len__(self) -> int:
        """Objects that are filed under something."""
        return len(self._filed)

    def keys(self, value: str) -> Iterable[Key]:
        return self._keys.get(value, ())

    def counts(self) -> Iterable[tuple[str, int]]:
        """The values, and how many objects are filed under each."""
        return ((value, len(keys)) for value, keys in self._keys.items())

    def put(self, stored: Stored[Any]) -> None:
        key = stored.key
        old, new = self._filed.get(key, ()), self._values(stored)
        if old == new:
            return
        self._take_out(key, (value for value in old if value not in new))
        for value in new:
            self._keys.setdefault(value, {})[key] = None
        if new:
            self._filed[key] = new
        else:
            del self._filed[key]

    def drop(self, key: Key) -> None:
        self._take_out(key, self._filed.pop(key, ()))

    def _take_out(self, key: Key, values: Iterable[str]) -> None:
        for value in values:
            keys = self._keys[value]
            del keys[key]
            if not keys:
                del self._keys[value]

    def _values(self, stored: Stored[Any]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(self._function(stored)))
        except Exception as error:  # an index function of the author's: the others' objects are none of its business
            self._on_error(error)
            return ()


@final
class Indexes:
    """All indexes of one store: named ones of authors, and those by label and owner, which are made on first use."""

    __slots__ = ("_every", "_labels", "_named", "_objects", "_on_error", "_owners", "_selected")

    def __init__(self, objects: Mapping[Key, Stored[Any]], on_error: Callable[[Exception], None]) -> None:
        self._objects = objects
        self._on_error = on_error
        self._named: dict[str, Index] = {}
        self._labels: dict[str, Index] = {}
        self._selected: dict[str, Index] = {}
        self._owners: Index | None = None
        self._every: tuple[Index, ...] = ()

    def __len__(self) -> int:
        return len(self._every)

    def add(self, name: str, function: IndexFunction) -> bool:
        """Index by ``function``; False where an index has that name already."""
        if name in self._named:
            return False
        self._named[name] = self._make(function)
        self._note()
        return True

    def named(self, name: str) -> Index:
        """Raises KeyError for an index that was not added."""
        return self._named[name]

    def label(self, name: str) -> Index:
        """By the value of the label ``name``, from now on."""
        index = self._labels.get(name)
        if index is None:
            index = self._selected.pop(name, None)
            if index is None:
                index = self._make(_by_label(name))
            self._labels[name] = index
            self._note()
        return index

    def owners(self) -> Index:
        """By the uids of ``metadata.ownerReferences``, from now on."""
        if self._owners is None:
            self._owners = self._make(_owner_uids)
            self._note()
        return self._owners

    def selected(self, selector: LabelSelector) -> Iterable[Key] | None:
        """The keys of all objects that can match ``selector``, and maybe others; None where only looking at all tells."""
        for requirement in selector.requirements:
            if requirement.operator == IN:
                index = self._by_selected(requirement.key)
                return [key for value in requirement.values for key in index.keys(value)]
        return None

    def _by_selected(self, name: str) -> Index:
        index = self._labels.get(name) or self._selected.get(name)
        if index is None:
            index = self._selected[name] = self._make(_by_label(name))
            if len(self._selected) > MAX_SELECTED:
                del self._selected[next(iter(self._selected))]
            self._note()
        return index

    def put(self, stored: Stored[Any]) -> None:
        stored.share()
        for index in self._every:
            index.put(stored)
        stored.unshare()

    def drop(self, key: Key) -> None:
        for index in self._every:
            index.drop(key)

    def _note(self) -> None:
        owners = () if self._owners is None else (self._owners,)
        self._every = (*self._named.values(), *self._labels.values(), *self._selected.values(), *owners)

    def _make(self, function: IndexFunction) -> Index:
        return Index(function, self._on_error, self._objects.values())


def _by_label(name: str) -> IndexFunction:
    def value(stored: Stored[Any]) -> Iterable[str]:
        found = stored.labels.get(name)
        return () if found is None else (found,)

    return value


def _owner_uids(stored: Stored[Any]) -> Iterable[str]:
    if _OWNERS not in stored.data:
        return ()
    return [owner.uid for owner in stored.meta.owner_references]
