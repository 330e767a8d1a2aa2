"""Background tasks: held, named, awaited, and never lost in silence."""

from __future__ import annotations

import asyncio
import gc

import pytest

from kaito.runtime import TaskScope, first_of
from kaito.runtime.tasks import cancel_and_wait


class Errors:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, name: str, error: BaseException) -> None:
        self.told.append((name, str(error)))


async def test_a_task_that_nobody_else_holds_runs_to_its_end() -> None:
    """Pitfall 94."""
    errors = Errors()
    scope = TaskScope(errors)
    future = asyncio.get_running_loop().create_future()
    ended: list[str] = []

    async def waits() -> None:
        ended.append(await future)

    scope.start("waits", waits())
    await asyncio.sleep(0)
    gc.collect()
    assert len(scope) == 1
    future.set_result("done")
    await scope.join()
    assert (ended, errors.told, len(scope)) == (["done"], [], 0)


async def test_an_error_is_told_at_once_with_the_tasks_name() -> None:
    errors = Errors()
    scope = TaskScope(errors)

    async def fails() -> None:
        raise OSError("no space")

    scope.start("writer", fails())
    await scope.join()
    assert errors.told == [("writer", "no space")]


async def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    errors = Errors()
    scope = TaskScope(errors)
    future = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        await future

    scope.start("reader", waits())
    asked = scope.start("asked", asyncio.Event().wait())
    await asyncio.sleep(0)
    future.cancel()
    asked.cancel()
    await scope.join()
    assert errors.told == [("reader", "it awaited something that was cancelled")]


@pytest.mark.looptime
async def test_what_does_not_end_by_the_deadline_is_cancelled_again() -> None:
    errors = Errors()
    scope = TaskScope(errors)
    loop = asyncio.get_running_loop()
    ended: list[tuple[str, float]] = []

    async def lingers(name: str, seconds: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(seconds)
            finally:
                ended.append((name, round(loop.time(), 1)))

    for name, seconds in (("quick", 1.0), ("slow", 100.0)):
        scope.start(name, lingers(name, seconds))
    await asyncio.sleep(0)
    assert await scope.stop(loop.time() + 5.0, loop.time() + 6.0) == set()
    assert ended == [("quick", 1.0), ("slow", 5.0)]
    await scope.aclose()
    assert errors.told == []


async def test_cancelling_and_waiting_raises_the_tasks_own_error() -> None:
    async def ends_badly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while ending")

    task = asyncio.create_task(ends_badly())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="while ending"):
        await cancel_and_wait(task)


async def test_work_that_others_forestall_is_over_when_that_is_told() -> None:
    done = asyncio.get_running_loop().create_task(asyncio.sleep(0), name="other")
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    await first_of(work(), done)
    assert (done.done(), ended) == (True, ["work"])
    await first_of(work(), timeout=0.01)
    assert ended == ["work", "work"]


async def test_work_goes_with_the_one_who_waits_for_it() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(first_of(work()))
    await began.wait()
    await cancel_and_wait(waiting)
    assert waiting.cancelled()
    assert ended.is_set()


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await first_of(work())
