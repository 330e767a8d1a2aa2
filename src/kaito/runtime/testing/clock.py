"""Time that a test decides about."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import final

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@final
class VirtualClock:
    """The event loop's time, from ``EPOCH`` on: with ``looptime`` it passes only as tests and timers need it.

    ``advance`` lets it jump, for what only looks at the clock and does not sleep. Its loop is the one in which it is first
    looked at; threads may look at it after that.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def monotonic(self) -> float:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time() + self._ahead

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())
