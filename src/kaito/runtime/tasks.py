"""Tasks that cannot be lost: strongly held, named, awaited before their owner ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, final

_MOMENT = 0.01
"""Seconds; a few turns of the event loop."""


@final
class TaskScope:
    """Owns background tasks.

    A task that fails, or that ends by a cancellation which nobody asked of it, hands its error to ``on_error`` at once, so
    that nobody has to wait for it to be noticed. ``aclose`` cancels what still runs and returns only when all of it has
    ended.
    """

    def __init__(self, on_error: Callable[[str, BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_error = on_error

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not task.cancelling():
                self._on_error(task.get_name(), RuntimeError("it awaited something that was cancelled"))
        elif (error := task.exception()) is not None:
            self._on_error(task.get_name(), error)

    async def join(self) -> None:
        """Wait until every task has ended by itself."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, deadline: float, last: float) -> set[asyncio.Task[Any]]:
        """Cancel all tasks; again those that have not ended by ``deadline``. Returns at ``last`` with those that never did.

        Both are in the event loop's time.
        """
        loop = asyncio.get_running_loop()
        for limit in (deadline, last):
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                # Without any time left each still gets a moment to learn of the first cancellation before the second one.
                await asyncio.wait(self._tasks, timeout=max(_MOMENT, limit - loop.time()))
        return set(self._tasks)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end. Safe to call again, and from a task that is being cancelled itself."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


def asked_to_end() -> bool:
    """Whether a CancelledError is for the current task: otherwise something that it awaited was cancelled by others."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_of(work: Coroutine[Any, Any, Any], *tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
    """Return when ``work`` or one of ``tasks`` has ended, or after ``timeout`` seconds.

    ``work`` has ended by then: what is left of it is cancelled, also where the caller is; its own error, if any, is raised.
    """
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({working, *tasks}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(working)


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel ``task`` and return when it has ended; its own error, if any, is raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
