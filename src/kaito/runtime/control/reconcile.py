"""The contract between a controller and the code that reconciles one object."""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from kaito.runtime.objects.resource import Key


class Request(msgspec.Struct, frozen=True):
    """What to reconcile: a key, never an event. ``attempt`` counts the failures of this key since its last success."""

    key: Key
    attempt: int = 0


class Result(msgspec.Struct, frozen=True):
    """When to look again; without ``requeue_after``, when something changes."""

    requeue_after: float | None = None
    """Seconds. A time that has passed already (0 or less) means again at the pace of the rate limiter, as after a failure."""
    priority: int | None = None
    """Priority of the requeued key; None keeps the one it had."""

    def __post_init__(self) -> None:
        if self.requeue_after is not None and math.isnan(self.requeue_after):
            raise ValueError("requeue_after is not a number")


class Reconciler(Protocol):
    """Brings the world nearer to what one object asks for.

    It reads the newest state itself, may be called at any time for any key, and never for one key twice at once.
    An exception means trying again with growing delays, ``TerminalError`` means not before the object changes.
    """

    async def reconcile(self, request: Request) -> Result | None: ...
