"""What ends a process that should have ended: a thread, so that it also works where the event loop is stuck."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any, final

from kaito.runtime.clock import Clock

PERIOD = 0.25
"""Seconds between two looks at the clock."""


def end_process(code: int) -> None:
    """At once and without any clean-up: what is stuck would hold that up, too."""
    os._exit(code)


@final
class Watchdog:
    """Ends the process once ``limit()``, a monotonic time of ``clock``, has passed; until ``stop``."""

    def __init__(
        self, reason: str, limit: Callable[[], float], clock: Clock, end: Callable[[int], Any] | None = None
    ) -> None:
        self._reason = reason
        self._limit = limit
        self._clock = clock
        self._end = end
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watchdog: {reason}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        left = 0.0
        while not self._stopped.wait(min(PERIOD, max(left, 0.01))):
            left = self._limit() - self._clock.monotonic()
            if left <= 0:
                sys.stderr.write(f"{self._reason}: ending this process\n")
                (self._end or end_process)(1)
                return
