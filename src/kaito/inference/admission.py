"""Who may generate, who waits, and who is sent away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import final

from kaito.inference.errors import Overloaded

_WEIGHT = 0.2
"""Of the latest duration in the mean."""


@final
class Admission:
    """At most ``running`` sequences at a time and ``waiting`` behind them, first come, first served."""

    __slots__ = ("_admitted", "_capacity", "_mean", "_places", "_running", "running")

    def __init__(self, running: int, waiting: int) -> None:
        self._running = running
        self._capacity = running + waiting
        self._places = asyncio.Semaphore(running)
        self._admitted = 0
        self._mean = 1.0
        self.running = 0

    @property
    def waiting(self) -> int:
        return self._admitted - self.running

    @property
    def idle(self) -> bool:
        return self._admitted == 0

    def reserve(self, count: int) -> None:
        """Take ``count`` places in the queue, or raise Overloaded. Each is given back by :meth:`release`."""
        if self._admitted + count > self._capacity:
            raise Overloaded(
                f"{self.running} sequences are running and {self.waiting} are waiting; try again later.",
                retry_after=max(1, math.ceil(self._mean * self.waiting / self._running)),
            )
        self._admitted += count

    def release(self, count: int) -> None:
        self._admitted -= count

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place among the running; the reservation is kept."""
        async with self._places:
            began = monotonic()
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1
                self._mean += _WEIGHT * (monotonic() - began - self._mean)
