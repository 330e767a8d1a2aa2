"""Sharing the event loop: work that never waits gives way in time, and what holds the loop is named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    PODS,
    Cache,
    Controller,
    Event,
    Key,
    Request,
    Rest,
    RestConfig,
    RuntimeMetrics,
    Stored,
    Timer,
    Watch,
)
from kaito.runtime.cache.informer import Informer
from kaito.runtime.control.run import ControllerRun
from kaito.runtime.fairness import HOLD_LIMIT, Holds, LoopBudget
from kaito.runtime.tasks import cancel_and_wait
from support.waiting import eventually

NOWHERE = RestConfig(server="http://127.0.0.1:1")


class Turns:
    """Counts turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def config_map(name: str, version: int, **labels: str) -> bytes:
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": str(version), "labels": labels}
    return json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}).encode()


async def test_who_shares_a_budget_goes_in_turn_and_nobody_is_left_out() -> None:
    budget, done = LoopBudget(0.0), [0, 0, 0]

    async def work(number: int) -> None:
        while sum(done) < 300:
            done[number] += 1
            await budget.give_way()

    await asyncio.gather(*(work(number) for number in range(3)))
    assert min(done) >= 95, "each had its share, although none of them ever waited for anything else"


async def test_a_place_in_line_that_is_given_up_holds_up_nobody() -> None:
    budget = LoopBudget(0.0)
    _, first, second = (asyncio.create_task(budget.give_way()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 10)
    assert first.cancelled()


async def test_reconciles_that_never_wait_let_the_loop_go_round() -> None:
    """However many keys are queued and workers there are, one budget is worked and then everybody else has a turn."""
    done: list[int] = []
    turns = Turns()

    class Settled:
        async def reconcile(self, request: Request) -> None:
            done.append(turns.count)
            burn(0.001)

    metrics = RuntimeMetrics()
    rest = Rest(NOWHERE, metrics)
    controller = Controller("test", Settled(), sources=(Timer(1e6),), max_concurrent=16)
    run = ControllerRun(controller, Cache(rest, metrics), metrics)
    for number in range(300):
        run.enqueue(Key("n", f"k{number}"))
    other, work = asyncio.create_task(turns.run()), asyncio.create_task(run.work())
    await eventually(lambda: len(done) == 301)
    for task in (other, work):
        await cancel_and_wait(task)
    await rest.aclose()
    in_one_turn = max(done.count(turn) for turn in set(done))
    assert in_one_turn <= 20, "a budget is 10 ms and each reconcile took 1 ms or more"


@pytest.mark.parametrize("again", [False, True], ids=["a handler that comes late", "a resync"])
async def test_a_full_store_is_handed_over_in_slices(again: bool) -> None:
    metrics = RuntimeMetrics()
    rest = Rest(NOWHERE, metrics)
    informer: Informer[Any] = Informer(rest, CONFIG_MAPS, metrics=metrics)
    for number in range(100):
        informer.written(config_map(f"c{number:03}", number + 1))
    turns, seen = Turns(), list[int]()
    told: list[str] = []

    def handler(event: Event[Any]) -> None:
        burn(0.001)
        seen.append(turns.count)
        told.append(event.current.key.name)

    other = asyncio.create_task(turns.run())
    registration = informer.add_handler(handler)
    if again:
        await registration.caught_up()
        seen.clear()
        told.clear()
        await informer.resync(registration)
    await registration.caught_up()
    await cancel_and_wait(other)
    await rest.aclose()
    assert sorted(told) == [f"c{number:03}" for number in range(100)]
    assert max(seen.count(turn) for turn in set(seen)) <= 25


async def test_what_happens_while_a_store_is_handed_over_is_told_once_and_in_order() -> None:
    metrics = RuntimeMetrics()
    rest = Rest(NOWHERE, metrics)
    informer: Informer[Any] = Informer(rest, CONFIG_MAPS, metrics=metrics)
    for number in range(40):
        informer.written(config_map(f"c{number:02}", number + 1))
    told: dict[str, list[tuple[str, bool]]] = {}

    def handler(event: Event[Any]) -> None:
        burn(0.001)
        told.setdefault(event.current.key.name, []).append((event.type.value, event.initial))

    registration = informer.add_handler(handler)
    assert len(told) < 40, "the rest is yet to come"
    informer.written(config_map("c39", 100))
    informer.deleted(Key("n", "c38"), "uid-c38")
    informer.written(config_map("c00", 101))
    await registration.caught_up()
    await rest.aclose()
    assert told["c39"] == [("ADDED", False)], "its change is how it became known"
    assert "c38" not in told, "it was gone before it was known"
    assert told["c00"] == [("ADDED", True), ("UPDATED", False)]
    assert len(told) == 39


# Who held the loop


def holds(metrics: RuntimeMetrics) -> dict[str, float]:
    return {holder: held.value for (holder,), held in metrics.loop_holds_total.series.items()}


async def test_a_reconciler_that_holds_the_loop_is_named_for_its_piece_and_not_for_its_waits() -> None:
    class Slow:
        async def reconcile(self, request: Request) -> None:
            await asyncio.sleep(HOLD_LIMIT * 1.5)
            if request.key.name == "holds":
                burn(HOLD_LIMIT * 1.2)

    metrics = RuntimeMetrics()
    rest = Rest(NOWHERE, metrics)
    run = ControllerRun(Controller("slow", Slow(), sources=(Timer(1e6),)), Cache(rest, metrics), metrics)
    run.enqueue(Key("", "holds"))
    work = asyncio.create_task(run.work())
    done = {"controller": "slow", "result": "success"}
    await eventually(lambda: metrics.registry.get_sample_value("controller_runtime_reconcile_total", done) == 2)
    await cancel_and_wait(work)
    await rest.aclose()
    assert holds(metrics) == {"slow": 1.0}


async def test_a_mapper_that_holds_the_loop_is_named() -> None:
    class Nothing:
        async def reconcile(self, request: Request) -> None: ...

    def mapper(stored: Stored[Any]) -> Iterable[Key]:
        burn(HOLD_LIMIT * 1.2)
        return ()

    metrics = RuntimeMetrics()
    rest = Rest(NOWHERE, metrics)
    cache = Cache(rest, metrics)
    run = ControllerRun(Controller("c", Nothing(), watches=[Watch(PODS, mapper)]), cache, metrics)
    task = asyncio.create_task(run.run())
    pod = {"kind": "Pod", "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1"}}
    await asyncio.sleep(0)
    cache.written(PODS, json.dumps(pod).encode())
    await cancel_and_wait(task)
    await rest.aclose()
    assert holds(metrics) == {"controller c, watch of pods": 1.0}


async def test_timing_work_changes_nothing_about_it() -> None:
    holder = Holds(RuntimeMetrics())
    heard: list[str] = []

    async def work(fail: bool) -> str:
        try:
            await asyncio.sleep(0)
            async with asyncio.timeout(30):
                await asyncio.sleep(0)
            if fail:
                raise ValueError("its own")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise
        return "never"

    with pytest.raises(ValueError, match="its own"):
        await holder.run("x", work(fail=True))
    task = asyncio.create_task(_awaiting(lambda: holder.run("x", work(fail=False))))
    for _ in range(5):
        await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert heard == ["cancelled"]


async def _awaiting(make: Callable[[], Any]) -> Any:
    return await make()
