"""What happens to the objects of an informer, as its handlers see it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kaito.runtime.objects.stored import Stored

T = TypeVar("T")


class EventType(enum.StrEnum):
    ADDED = "ADDED"
    UPDATED = "UPDATED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
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

    @property
    def current(self) -> Stored[T]:
        """The newest state there is."""
        current = self.new or self.old
        assert current is not None, "an event has a state"
        return current


Handler = Callable[[Event[Any]], None]
"""Called in the step that changed the store, in order; it must not block and may not await."""

Predicate = Callable[[Event[Any]], bool]
