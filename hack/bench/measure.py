"""One contender at one size, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hack.bench.access import access_line
from hack.bench.figures import Figures
from hack.bench.names import STARTED
from hack.bench.objects import Kind, touch
from kaito.runtime import Client

ROOT = Path(__file__).resolve().parents[2]
PATCHES = 1000
CHURN_RATE, CHURN_SECONDS = 500, 10
_CHURN_WRITERS = 32
_SETTLE_SECONDS = 6
"""Longer than the five seconds for which kopf keeps what it has for an object that does not change."""
_CATCH_UP_SECONDS = 1
"""For changes that are still under way when the last one was answered."""
_SYNC_TIMEOUT = 900
_ANSWER_TIMEOUT = 120
"""Seconds for a contender to say what it has measured; one that lags behind answers when it has caught up."""
_EXIT_SECONDS = 5


class ContenderFailed(Exception):
    """A contender ended, or did not do its work in time."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextlib.asynccontextmanager
async def _contender(
    name: str, kubeconfig: str, kind: Kind, count: int, root: Path = ROOT
) -> AsyncIterator[asyncio.subprocess.Process]:
    environ = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    environ["PYTHONPATH"] = str(root / "src")
    access = await access_line(kubeconfig)
    environ[STARTED] = str(time.monotonic_ns())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hack.bench.contenders", name, kubeconfig, kind.names.plural, str(count),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, limit=1 << 26, env=environ,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(access)
        yield process
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _hear(process: asyncio.subprocess.Process, what: str, timeout: float = _ANSWER_TIMEOUT) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            while line := await process.stdout.readline():
                with contextlib.suppress(json.JSONDecodeError):
                    said = json.loads(line)
                    if isinstance(said, dict) and said.get("what") == what:
                        return said
    except TimeoutError:
        raise ContenderFailed(f"no {what!r} after {timeout:.0f} s") from None
    raise ContenderFailed(f"it ended before it said {what!r}")


async def _ask(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(b"figures\n")
    return await _hear(process, "figures")


async def measure(name: str, kubeconfig: str, client: Client, kind: Kind, count: int) -> Figures:
    """Raises ContenderFailed."""
    say(f"  {name}: reads {count:,} {kind.title}")
    async with _contender(name, kubeconfig, kind, count) as process:
        reconciled = (await _hear(process, "reconciled", _SYNC_TIMEOUT))["seconds"]
        await asyncio.sleep(_SETTLE_SECONDS)
        settled = await _ask(process)
        say(f"  {name}: {reconciled:.2f} s, {settled['rss']:.0f} MB; {PATCHES:,} patches one by one")
        rng = random.Random(1)
        for _ in range(PATCHES):
            await touch(client, kind, rng.randrange(count))
        await asyncio.sleep(_CATCH_UP_SECONDS)
        patched = await _ask(process)
        say(f"  {name}: {CHURN_RATE} changes/s for {CHURN_SECONDS} s")
        rate = await churn(client, kind, count, rng)
        await asyncio.sleep(_CATCH_UP_SECONDS)
        churned = await _ask(process)
    return Figures(
        kind=kind.names.plural,
        contender=name,
        count=count,
        reconciled=reconciled,
        peak=settled["peak"],
        settled=settled["rss"],
        cpu=settled["cpu"],
        latency=patched["latencies"],
        churn_lag=churned["lag"],
        churn_rate=rate,
    )


async def from_start(kubeconfig: str, kind: Kind, count: int, root: Path = ROOT) -> float:
    """Seconds from the start of kaito's process, of the checkout at ``root``, to the last first reconcile."""
    async with _contender("kaito", kubeconfig, kind, count, root) as process:
        return float((await _hear(process, "reconciled", _SYNC_TIMEOUT))["seconds"])


async def churn(client: Client, kind: Kind, count: int, rng: random.Random) -> float:
    """Changes on a schedule, each by the next free writer; the rate that was reached, per second."""
    began, done = time.monotonic(), 0
    numbers = iter(range(CHURN_RATE * CHURN_SECONDS))

    async def write() -> None:
        nonlocal done
        for number in numbers:
            await asyncio.sleep(began + number / CHURN_RATE - time.monotonic())
            if time.monotonic() - began >= CHURN_SECONDS:
                return
            await touch(client, kind, rng.randrange(count))
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(_CHURN_WRITERS):
            group.create_task(write())
    return done / max(CHURN_SECONDS, time.monotonic() - began)
