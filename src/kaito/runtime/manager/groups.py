"""What a manager runs: parts that start together and end together, in tiers; those that fail are started again."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, final

from kaito.runtime.backoff import Backoff, BackoffPolicy
from kaito.runtime.errors import RuntimeFault
from kaito.runtime.log import get_logger
from kaito.runtime.metrics.runtime import RuntimeMetrics
from kaito.runtime.tasks import TaskScope

RESTART_BACKOFF = BackoffPolicy(base=0.8, cap=30.0, jitter=0.5, reset_after=120.0)
UNHEALTHY_AFTER = 3
"""Failures in a row from which a runnable shows in the readiness check."""

Run = Callable[[], Coroutine[Any, Any, None]]

_log = get_logger("manager")


class Order(enum.StrEnum):
    """When a runnable runs, seen from the controllers of its group."""

    BEFORE = "before"
    """It starts before them, and is told to end when they have ended."""
    WITH = "with"
    AFTER = "after"
    """It starts after them, and has ended before they are told to."""


@final
class Supervisor:
    """Starts again what ends with an error: after 0.8 s, then twice as long each time, at most 30 s and a half more."""

    def __init__(self, metrics: RuntimeMetrics) -> None:
        self._restarts = metrics.runnable_restarts_total
        self._failing: dict[str, tuple[Backoff, float]] = {}

    def supervised(self, name: str, run: Run) -> Run:
        restarts = self._restarts.labels(name)

        async def supervise() -> None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            backoff = Backoff(RESTART_BACKOFF)
            while True:
                try:
                    await run()
                    return
                except (Exception, asyncio.CancelledError) as error:
                    # What fails while it is told to end, or is told to end, does not start again.
                    if task is not None and task.cancelling():
                        raise
                    delay = backoff.next(loop.time())
                    self._failing[name] = (backoff, loop.time() + delay)
                    restarts.inc()
                    words = f"{type(error).__name__}: {error}"
                    _log.error("a runnable failed and is started again", part=name, error=words, delay=round(delay, 1))
                await asyncio.sleep(delay)

        return supervise

    def check(self) -> None:
        """Raises RuntimeFault where a runnable keeps failing; it is well again once it has run for two minutes."""
        now = asyncio.get_running_loop().time()
        failing = [
            f"{name} failed {backoff.failures} times in a row"
            for name, (backoff, restart) in self._failing.items()
            if backoff.failures >= UNHEALTHY_AFTER and now < restart + RESTART_BACKOFF.reset_after
        ]
        if failing:
            raise RuntimeFault("; ".join(failing))


@final
class Group:
    """Parts that start and end together. Each tier starts when the one before it has, and ends before that does."""

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self._waiting: dict[Order, list[tuple[str, Run]]] = {order: [] for order in Order}
        self._entering: list[asyncio.Event] = []
        self._tiers = {order: TaskScope(on_error) for order in Order}
        self._started = False

    def add(self, name: str, run: Run, order: Order = Order.WITH) -> None:
        if self._started:
            self._tiers[order].start(name, run())
        else:
            self._waiting[order].append((name, run))

    def enter(self, name: str, context: AbstractAsyncContextManager[Any]) -> None:
        """Hold ``context`` open while the group runs, from before its other parts begin until after they have ended."""
        entered = asyncio.Event()

        async def hold() -> None:
            async with context:
                entered.set()
                await asyncio.Event().wait()

        self._entering.append(entered)
        self.add(name, hold, Order.BEFORE)

    async def start(self) -> None:
        for order in Order:
            for name, run in self._waiting[order]:
                self._tiers[order].start(name, run())
            if order is Order.BEFORE:
                for entered in self._entering:
                    await entered.wait()
        self._started = True

    async def stop(self, order: Order, deadline: float, last: float) -> set[asyncio.Task[Any]]:
        """Ask the parts of one tier to end: in order until ``deadline``, cancelled until ``last`` (event loop times).

        Those that have not ended then.
        """
        return await self._tiers[order].stop(deadline, last)
