"""Parts of the runtime by themselves, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import uvloop

from kaito.runtime import CONFIG_MAPS, Cache, Controller, Key, Request, Rest, RestConfig, RuntimeMetrics
from kaito.runtime.control.run import ControllerRun
from kaito.runtime.control.workqueue import WorkQueue

_KEYS = 200_000


async def _queue() -> float:
    queue: WorkQueue[Key] = WorkQueue()
    keys = [Key("namespace", f"object-{number}") for number in range(_KEYS)]
    began = time.perf_counter()
    for key in keys:
        queue.add(key)
        taken, _ = await queue.get()
        queue.done(taken)
    return _KEYS / (time.perf_counter() - began)


async def _reconciles() -> float:
    done = 0
    finished = asyncio.Event()

    class Nothing:
        async def reconcile(self, request: Request) -> None:
            nonlocal done
            done += 1
            if done == _KEYS:
                finished.set()

    metrics = RuntimeMetrics()
    rest = Rest(RestConfig(server="http://127.0.0.1:1"), metrics)
    run = ControllerRun(Controller("bench", Nothing(), CONFIG_MAPS, max_concurrent=4), Cache(rest, metrics), metrics)
    for number in range(_KEYS):
        run.enqueue(Key("namespace", f"object-{number}"))
    began = time.perf_counter()
    workers = asyncio.create_task(run.work())
    await finished.wait()
    rate = _KEYS / (time.perf_counter() - began)
    workers.cancel()
    await asyncio.wait([workers])
    await rest.aclose()
    return rate


@dataclass(frozen=True)
class Parts:
    """Times per second."""

    queue: float
    """Add, get and done of one key."""
    reconciles: float
    """Reconciles that do nothing."""


def measure() -> Parts:
    """The best of three runs each."""

    def best(part: Callable[[], Coroutine[Any, Any, float]]) -> float:
        rates = []
        for _ in range(3):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rates.append(runner.run(part()))
        return max(rates)

    return Parts(best(_queue), best(_reconciles))
