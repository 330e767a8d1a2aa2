"""Sharing the event loop: long work gives way in time, and what does not is named.

Reconciles that find nothing to do, lists of thousands of objects and resyncs never wait for anything, so by themselves they
would keep the loop until they are done, and leader election, probes and watches waiting. All of a process's long work asks
one ``LoopBudget`` between two pieces, so that together they hold the loop for about one budget.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import coroutine
from typing import Any, TypeVar, final

from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics

T = TypeVar("T")

BUDGET = 0.01
"""Seconds of work between two turns of the event loop."""
HOLD_LIMIT = 0.1
"""Seconds in one piece that are worth a metric and a line in the log."""

_log = get_logger("event loop")


@final
class LoopBudget:
    """Who shares one works until the budget of the loop's turn is used up, then waits in line for a turn of its own.

    For the loop's thread alone. Cancelling ``give_way`` gives up the place in line and nothing else.
    """

    __slots__ = ("_armed", "_began", "_budget", "_line", "_loop")

    def __init__(self, budget: float = BUDGET) -> None:
        self._budget = budget
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: deque[asyncio.Future[None]] = deque()
        self._armed = False
        self._began = 0.0

    async def give_way(self) -> None:
        """Return at once while this turn's budget lasts, otherwise at the head of a later turn."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if not self._armed:
            self._armed = True
            self._began = loop.time()
            loop.call_soon(self._turn)
            return
        if loop.time() - self._began < self._budget:
            return
        place = loop.create_future()
        self._line.append(place)
        await place

    def _turn(self) -> None:
        """The loop has been round: whoever waits longest goes first, alone."""
        assert self._loop is not None
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                self._began = self._loop.time()
                self._loop.call_soon(self._turn)
                return
        self._armed = False


@final
class Holds:
    """Tells who held the event loop for longer than ``HOLD_LIMIT`` in one piece."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: RuntimeMetrics) -> None:
        self._metrics = metrics

    def report(self, holder: str, seconds: float) -> None:
        if seconds >= HOLD_LIMIT:
            self._metrics.loop_holds_total.labels(holder).inc()
            _log.warning("the event loop was held", holder=holder, seconds=round(seconds, 3))

    @contextmanager
    def timed(self, holder: str) -> Iterator[None]:
        """Around a piece that does not await."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.report(holder, time.perf_counter() - began)

    @coroutine
    def run(self, holder: str, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """``await holds.run(…)``: as awaiting ``work``, each of whose pieces between two waits is timed."""
        step: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            began = time.perf_counter()
            try:
                waits_for = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                held = time.perf_counter() - began
                if held >= HOLD_LIMIT:
                    self.report(holder, held)
            try:
                step, value = work.send, (yield waits_for)
            except BaseException as error:  # passed on to the work, which decides
                step, value = work.throw, error
