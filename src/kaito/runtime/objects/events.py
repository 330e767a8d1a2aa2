"""What happens to the objects of an informer, as its handlers see it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from kaito.runtime.objects.resource import Resource
from kaito.runtime.objects.stored import Stored

T = TypeVar("T")


class EventType(enum.StrEnum):
    ADDED = "ADDED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


class Event(msgspec.Struct, Generic[T], frozen=True):
    """A change that the store already holds.

    ADDED has ``new``, UPDATED has both, DELETED has ``old``: the last state that was seen.
    """

    type: EventType
    old: Stored[T] | None = None
    new: Stored[T] | None = None
    initial: bool = False
    """The object was there before the handler was: part of its initial list."""
    resync: bool = False
    """Nothing changed; the handler asked to be reminded."""
    final_state_unknown: bool = False
    """The deletion itself was missed, so ``old`` may not be the object's last state."""

    def read_as(self, resource: Resource[Any]) -> Event[Any]:
        """The same event of objects that are decoded by ``resource``."""
        old = None if self.old is None else self.old.read_as(resource)
        new = None if self.new is None else self.new.read_as(resource)
        return self if old is self.old and new is self.new else msgspec.structs.replace(self, old=old, new=new)

    @property
    def unchanged(self) -> bool:
        """Whether it tells of a version that has been told of before."""
        old, new = self.old, self.new
        return old is not None and new is not None and (self.resync or old.resource_version == new.resource_version)

    @property
    def current(self) -> Stored[T]:
        """The newest state there is."""
        current = self.new or self.old
        assert current is not None, "an event has a state"
        return current


Handler = Callable[[Event[Any]], None]
"""Called in the step that changed the store, in order; it must not block and may not await."""

Predicate = Callable[[Event[Any]], bool]
