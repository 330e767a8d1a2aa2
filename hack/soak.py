"""``make soak``: the runtime under everything that a network and an API server can do to it, for minutes.

An API server, a proxy that misbehaves, and a controller with informers in one process; a writer changes objects all the
time. At the end the store must equal the server, every change must have been reconciled, and nothing may have leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions, Fault  # noqa: E402
from kaito.runtime import Client, Key, Rest, RuntimeMetrics, Stored  # noqa: E402
from kaito.runtime.errors import InternalError, RuntimeFault, TooManyRequests  # noqa: E402
from kaito.runtime.events import Event  # noqa: E402
from kaito.runtime.informer import Informer, Scope  # noqa: E402
from kaito.runtime.resource import CONFIG_MAPS  # noqa: E402
from kaito.runtime.tasks import cancel_and_wait  # noqa: E402
from kaito.runtime.workqueue import WorkQueue  # noqa: E402
from support.controlplane import of_server  # noqa: E402 - this file is run as a script
from support.proxy import Proxy  # noqa: E402

OBJECTS = 300
INFORMERS = 3
NAMESPACE = "default"
IDLE_DEADLINE = 3.0
"""Seconds; shorter than a real server would want, because this one sends bookmarks every second."""


def resident() -> float:
    """Resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sockets() -> int:
    """Open sockets of this process."""
    links = []
    for entry in tuple(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


class Follower:
    """An informer with a handler that keeps its own view, as a controller would."""

    def __init__(self, rest: Rest) -> None:
        self.informer = Informer(
            rest, CONFIG_MAPS, Scope(NAMESPACE), metrics=RuntimeMetrics(), idle_deadline=IDLE_DEADLINE
        )
        self.view: dict[Key, Stored[Any]] = {}
        self.seen: Counter[str] = Counter()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.reconciled: dict[str, str] = {}
        """Versions that were last reconciled, by name."""
        self._lister = self.informer.lister(lambda: None)
        self.informer.add_handler(self._handle)

    async def reconcile(self) -> None:
        """What a controller's worker does: take a key, read the cache, act."""
        while True:
            key, _ = await self.queue.get()
            stored = self._lister.stored(key.name, key.namespace)
            await asyncio.sleep(0)
            if stored is None:
                self.reconciled.pop(key.name, None)
            else:
                self.reconciled[key.name] = stored.resource_version
            self.queue.done(key)

    def _handle(self, event: Event[Any]) -> None:
        key = event.current.key
        self.queue.add(key)
        self.seen[event.type] += 1
        if event.new is None:
            del self.view[key]
            return
        before = self.view.get(key)
        assert before is None or before.uid != event.new.uid or before.revision <= event.new.revision, (
            f"{key} went back"
        )
        self.view[key] = event.new


class Weather:
    """What goes wrong, at random."""

    def __init__(self, server: ApiServer, proxy: Proxy, rng: random.Random) -> None:
        self._server, self._proxy, self._rng = server, proxy, rng
        self.happened: Counter[str] = Counter()
        self._kinds: dict[str, Callable[[], Any]] = {
            "cut the connections": proxy.cut,
            "end the watches": server.cut_watches,
            "forget history": self._compact,
            "429": lambda: self._fail(TooManyRequests("busy", retry_after=0.2)),
            "500": lambda: self._fail(InternalError("boom")),
            "drop answers": lambda: server.faults.add(Fault("*", "configmaps", drop="before", count=3)),
            "freeze": self._freeze,
            "slow": self._slow,
        }

    def _compact(self) -> None:
        self._server.compact()
        self._server.cut_watches()

    def _fail(self, error: Any) -> None:
        for verb in ("list", "watch"):
            self._server.faults.add(Fault(verb, "configmaps", error=error, count=self._rng.randint(1, 4)))
        self._server.cut_watches()

    async def _freeze(self) -> None:
        self._proxy.freeze()
        await asyncio.sleep(self._rng.uniform(0.5, 6.0))
        self._proxy.thaw()

    async def _slow(self) -> None:
        self._proxy.slow(lambda: self._rng.uniform(0.0, 0.2))
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        self._proxy.slow(lambda: 0.0)

    async def blow(self) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 2.0))
            name = self._rng.choice(list(self._kinds))
            self.happened[name] += 1
            outcome = self._kinds[name]()
            if asyncio.iscoroutine(outcome):
                await outcome

    def clear(self) -> None:
        self._server.faults.clear()
        self._proxy.thaw()
        self._proxy.slow(lambda: 0.0)


async def write(client: Client, rng: random.Random, truth: dict[str, str], written: Counter[str]) -> None:
    """Create, change and delete objects through a connection of its own that works."""
    while True:
        await asyncio.sleep(rng.uniform(0.0, 0.02))
        name = f"soak-{rng.randrange(OBJECTS)}"
        try:
            if name not in truth:
                body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": "0"}}
                made = await client.create(CONFIG_MAPS, body, namespace=NAMESPACE)
                truth[name] = made["metadata"]["resourceVersion"]
            elif rng.random() < 0.1:
                await client.delete(CONFIG_MAPS, name, NAMESPACE)
                del truth[name]
            else:
                patch = {"data": {"value": str(rng.random())}}
                made = await client.patch(CONFIG_MAPS, name, patch, namespace=NAMESPACE)
                truth[name] = made["metadata"]["resourceVersion"]
            written["writes"] += 1
        except RuntimeFault:
            written["failed"] += 1
            with contextlib.suppress(RuntimeFault):
                for item in await client.list(CONFIG_MAPS, NAMESPACE):
                    truth[item["metadata"]["name"]] = item["metadata"]["resourceVersion"]


async def converged(followers: list[Follower], server: Client, deadline: float) -> dict[str, str]:
    """Wait until every follower has what the server has; that state."""
    while True:
        listed = await server.list(CONFIG_MAPS, NAMESPACE)
        truth = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in listed}
        views = [{key.name: stored.resource_version for key, stored in follower.view.items()} for follower in followers]
        if all(view == truth for view in [*views, *(follower.reconciled for follower in followers)]):
            return truth
        if time.monotonic() > deadline:
            raise SystemExit(
                f"FAILED: a store differs from the server: {[len(view) for view in views]} != {len(truth)}"
            )
        await asyncio.sleep(0.1)


async def soak(minutes: float, seed: int) -> None:
    rng = random.Random(seed)
    options = ApiServerOptions(bookmark_interval=1.0, window=500)
    async with ApiServer(options) as server, Proxy(server.url) as proxy:
        direct = Rest(of_server(server), RuntimeMetrics())
        rest = Rest(replace(of_server(server), server=proxy.url), RuntimeMetrics())
        client = Client(direct)
        tasks_before = len(asyncio.all_tasks())
        followers = [Follower(rest) for _ in range(INFORMERS)]
        sockets_before = sockets()
        running = [asyncio.create_task(follower.informer.run()) for follower in followers]
        running += [asyncio.create_task(follower.reconcile()) for follower in followers]
        weather = Weather(server, proxy, rng)
        truth: dict[str, str] = {}
        written: Counter[str] = Counter()
        writer = asyncio.create_task(write(client, random.Random(seed + 1), truth, written))
        storm = asyncio.create_task(weather.blow())
        memory: list[tuple[float, float]] = []
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < minutes * 60:
            await asyncio.sleep(min(5.0, minutes * 6))
            gc.collect()
            memory.append((elapsed, resident()))
            for task in (writer, storm, *running):
                if task.done():
                    task.result()
            print(
                f"{elapsed:5.0f} s  {memory[-1][1]:6.1f} MB  {written['writes']} writes  {dict(weather.happened)}",
                flush=True,
            )
        for task in (storm, writer):
            await cancel_and_wait(task)
        weather.clear()
        final = await converged(followers, client, time.monotonic() + 60)
        for task in running:
            await cancel_and_wait(task)
        await rest.aclose()
        proxy.cut()
        await asyncio.sleep(0.5)
        await direct.aclose()
        await asyncio.sleep(0.5)
        left = [task.get_name() for task in asyncio.all_tasks()]
        print(f"store == server == reconciled: {len(final)} objects in {INFORMERS} stores")
        print(f"seen: {[dict(follower.seen) for follower in followers]}")
        if len(left) > tasks_before:
            raise SystemExit(f"FAILED: tasks left behind: {left}")
        if sockets() > sockets_before:
            raise SystemExit(f"FAILED: {sockets() - sockets_before} sockets left open")
        settled = memory[len(memory) // 2 :]
        if len(settled) >= 4:
            slope = statistics.linear_regression([t for t, _ in settled], [mb for _, mb in settled]).slope * 60
            print(
                f"memory: {settled[0][1]:.1f} -> {settled[-1][1]:.1f} MB in the second half, {slope:+.2f} MB a minute"
            )
            if minutes >= 5 and slope > 0.5:
                raise SystemExit("FAILED: memory grows")
    print("passed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    uvloop.run(soak(arguments.minutes, arguments.seed))


if __name__ == "__main__":
    main()
