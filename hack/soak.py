"""``make soak``: the runtime under everything that a network and an API server can do to it, for minutes.

An API server, replicas of it that lag behind, repeat themselves or lie, a proxy that misbehaves before each, and controllers
with informers, in one process; a writer changes objects all the time. Every 15 s the weather clears: then each store must
equal the server, and every change must have been reconciled. At the end nothing may have leaked, and none of the troubles
may have passed the informers by.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from hack.soak_census import Census, CountingLoop, Failed, nothing_left, steady
from hack.soak_replica import EVERY, HONEST, Replica
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions, Backup, Fault
from kaito.runtime import (
    CONFIG_MAPS,
    Client,
    Event,
    EventType,
    InternalError,
    Key,
    Material,
    Resource,
    Rest,
    RestConfig,
    RuntimeFault,
    RuntimeMetrics,
    Stored,
    TlsConfig,
    TooManyRequests,
    configure_logging,
)
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.reflector import ReflectorMachine
from kaito.runtime.cache.scope import Scope
from kaito.runtime.control.workqueue import WorkQueue
from kaito.runtime.tasks import cancel_and_wait
from support.controlplane import of_server
from support.proxy import Proxy

OBJECTS = 300
NAMESPACE = "default"
IDLE_DEADLINE = 3.0
"""Seconds; shorter than a real server would want, because this one sends bookmarks every second."""
HASTE = (-0.95, -0.9)
"""What an informer draws where it would draw between 0 and 1: it waits 3 s after failures, not 60, and its watches last 15
to 30 s, not 5 to 10 minutes. So ten minutes have as many reconnections as hours would."""
ROUND = 15.0
"""Seconds of bad weather before it clears."""
PATIENCE = 60.0
"""Seconds in which the stores must equal the server in good weather."""
FULL = 5.0
"""Minutes after which all troubles must have been seen, and memory must not grow."""
REASONS = ("Expired", "TooManyRequests", "InternalError", "Timeout", "TransportError")
"""Why informers must have had to begin again: 410, 429, 500, silence, a broken connection."""


class Follower:
    """An informer and what a controller makes of it: a view of its own, a queue, and a worker."""

    def __init__(
        self, name: str, config: RestConfig, rng: random.Random, *, streaming: bool, own: bool, honest: bool
    ) -> None:
        self.name = name
        self.own = own
        """Whether it is told of this process's writes before its watch tells it."""
        self.rest = Rest(replace(config, user_agent=name), RuntimeMetrics())
        self.informer = Informer(
            self.rest,
            CONFIG_MAPS,
            Scope(NAMESPACE),
            metrics=RuntimeMetrics(),
            machine=ReflectorMachine(streaming=streaming, rng=lambda: rng.uniform(*HASTE)),
            idle_deadline=IDLE_DEADLINE,
        )
        self.view: dict[Key, Stored[Any]] = {}
        self.seen: Counter[str] = Counter()
        self.reconciled: dict[str, str] = {}
        """Versions that were last reconciled, by name."""
        self.wrong: list[str] = []
        """Events that must not be."""
        self.believes = not honest
        """Whether it may be taken back in time: by a server that was restored, or by one that lies."""
        self._rng = rng
        self._deleted: dict[Key, Stored[Any]] = {}
        self._queue: WorkQueue[Key] = WorkQueue()
        self._lister = self.informer.lister(lambda: None)
        self.informer.add_handler(self._handle)

    async def follow(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.informer.run())
                group.create_task(self._reconcile())
        finally:
            self._queue.shut_down()
            await self.rest.aclose()

    async def _reconcile(self) -> None:
        """What a controller's worker does: take a key, read the cache, act; now and then it fails and tries again."""
        while True:
            key, _ = await self._queue.get()
            stored = self._lister.stored(key.name, key.namespace)
            await asyncio.sleep(0)
            if self._rng.random() < 0.05:
                self._queue.add_rate_limited(key)
            elif stored is None:
                self._queue.forget(key)
                self.reconciled.pop(key.name, None)
            else:
                self._queue.forget(key)
                self.reconciled[key.name] = stored.resource_version
            self._queue.done(key)

    def _handle(self, event: Event[Any]) -> None:
        self._check(event)
        key = event.current.key
        self._queue.add(key)
        self.seen[event.type] += 1
        if event.new is None:
            self._deleted[key] = event.current
            self.view.pop(key, None)
        else:
            self.view[key] = event.new

    def forget_deletions(self) -> None:
        """What was deleted may be there again."""
        self._deleted.clear()

    def _check(self, event: Event[Any]) -> None:
        """Note what is promised not to happen. The informer would only log an exception."""
        before, now = self.view.get(event.current.key), event.current
        if (before is None) != (event.type is EventType.ADDED):
            self.wrong.append(f"{event.type} of {now}, known as {before}")
        elif event.type is EventType.UPDATED and before is not event.old:
            self.wrong.append(f"{now} does not follow {before}")
        elif event.new is not None and before is not None and event.new.revision <= before.revision:
            self.seen["went back"] += 1
            if not self.believes:
                self.wrong.append(f"{before} went back to {now}")
        deleted = self._deleted.get(now.key)
        if event.new is not None and deleted is not None:
            revived = deleted.uid == now.uid or now.revision <= deleted.revision
            self.seen["revived"] += revived
            if revived and not self.believes:
                self.wrong.append(f"{now} came back after {deleted} was deleted")


class Backups:
    """etcd is backed up now and then, and restored: everything since is gone, and its versions are given out again."""

    def __init__(self, server: ApiServer, followers: Iterable[Follower]) -> None:
        self._server, self._followers = server, tuple(followers)
        self._backups: list[Backup] = []
        self.restored = 0

    async def maybe(self, number: int, client: Client) -> None:
        """After round ``number``, in good weather: every third time, go back to an earlier round."""
        if number % 3 or not self._backups:
            self._backups = [*self._backups[-1:], self._server.back_up()]
            return
        believed = [follower.believes for follower in self._followers]
        for follower in self._followers:
            follower.believes = True
        self._server.restore(self._backups.pop(0))
        self._backups.clear()
        self.restored += 1
        await converged(self._followers, client, PATIENCE)
        for follower, before in zip(self._followers, believed, strict=True):
            follower.believes = before
            follower.forget_deletions()


class OwnWrites:
    """Tells informers of the writes of this process, as a manager's cache does."""

    def __init__(self, informers: Iterable[Informer[Any]]) -> None:
        self._informers = tuple(informers)

    def written(self, resource: Resource[Any], data: bytes) -> None:
        for informer in self._informers:
            informer.written(data)

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None:
        for informer in self._informers:
            informer.deleted(key, uid)


class Weather:
    """What goes wrong with the network and the server, at random."""

    def __init__(self, server: ApiServer, proxies: Iterable[Proxy], rng: random.Random) -> None:
        self._server, self._proxies, self._rng = server, tuple(proxies), rng
        self._kinds: dict[str, Callable[[], Any]] = {
            "cut the connections": self._cut,
            "end the watches": server.cut_watches,
            "forget history": self._compact,
            "429": lambda: self._fail("429", error=TooManyRequests("busy", retry_after=0.2)),
            "500": lambda: self._fail("500", error=InternalError("boom")),
            "no answer": lambda: self._fail("no answer", drop="before"),
            "lose writes": lambda: server.faults.add(Fault("patch", "configmaps", drop="after", count=3)),
            "freeze": self._freeze,
            "slow": self._slow,
        }
        self._faults: dict[str, list[Fault]] = {"429": [], "500": [], "no answer": []}
        self.happened: Counter[str] = Counter(dict.fromkeys(self._kinds, 0))

    def _cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def _compact(self) -> None:
        self._server.compact()
        self._server.cut_watches()

    def _fail(self, name: str, **how: Any) -> None:
        for verb in ("list", "watch"):
            fault = Fault(verb, "configmaps", count=self._rng.randint(1, 4), **how)
            self._faults[name].append(self._server.faults.add(fault))
        self._server.cut_watches()

    @property
    def hits(self) -> Counter[str]:
        """Requests that met with a fault."""
        return Counter({name: sum(fault.hits for fault in faults) for name, faults in self._faults.items()})

    async def _freeze(self) -> None:
        for proxy in self._proxies:
            proxy.freeze()
        await asyncio.sleep(self._rng.uniform(0.5, 6.0))
        self._calm()

    async def _slow(self) -> None:
        for proxy in self._proxies:
            proxy.slow(lambda: self._rng.uniform(0.0, 0.2))
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        self._calm()

    def _calm(self) -> None:
        for proxy in self._proxies:
            proxy.thaw()
            proxy.slow(lambda: 0.0)

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
        self._calm()


async def write(client: Client, rng: random.Random, written: Counter[str]) -> None:
    """Create, change and delete objects through a connection of its own that works."""
    names: set[str] = set()
    while True:
        await asyncio.sleep(rng.uniform(0.0, 0.02))
        name = f"soak-{rng.randrange(OBJECTS)}"
        try:
            if name not in names:
                body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": "0"}}
                await client.create(CONFIG_MAPS, body, namespace=NAMESPACE)
                names.add(name)
            elif rng.random() < 0.1:
                await client.delete(CONFIG_MAPS, name, NAMESPACE)
                names.remove(name)
            else:
                await client.patch(CONFIG_MAPS, name, {"data": {"value": str(rng.random())}}, namespace=NAMESPACE)
            written["done"] += 1
        except RuntimeFault:
            written["failed"] += 1
            with suppress(RuntimeFault):
                names = {item["metadata"]["name"] for item in await client.list(CONFIG_MAPS, NAMESPACE)}


async def converged(followers: Iterable[Follower], client: Client, patience: float) -> int:
    """Wait until every follower has, and has reconciled, what the server has; how many objects that are."""
    deadline = time.monotonic() + patience
    for follower in followers:
        while True:
            listed = await client.list(CONFIG_MAPS, NAMESPACE)
            truth = {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in listed}
            view = {key.name: stored.resource_version for key, stored in follower.view.items()}
            if view == truth == follower.reconciled:
                break
            if time.monotonic() > deadline:
                for what, have in (("store", view), ("reconciled", follower.reconciled)):
                    print(f"{follower.name}: {what} and server differ in {sorted(have.items() ^ truth.items())[:10]}")
                raise Failed(f"{follower.name} is not what the server is: {follower.informer.status()}")
            await asyncio.sleep(0.1)
    return len(truth)


@dataclass(frozen=True, slots=True)
class Stage:
    """Server, replicas, proxies and followers, in that order from the truth to those who want to know it."""

    followers: list[Follower]
    replicas: list[Replica]
    weather: Weather
    backups: Backups
    client: Client
    """A way to the server that works; what it writes, some of the followers know at once."""

    def calm(self, calm: bool) -> None:
        """Whether all is well from now on, or what is said and sent may be wrong."""
        if calm:
            self.weather.clear()
        for replica in self.replicas:
            replica.calm(calm)


@asynccontextmanager
async def staged(rng: random.Random) -> AsyncIterator[Stage]:
    followers, replicas, proxies = [], [], []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            ApiServer(ApiServerOptions(tls=False, bookmark_interval=1.0, window=500))
        )
        for label, kinds, owns in (("honest", HONEST, (True, False)), ("lying", EVERY, (False,))):
            replica = await stack.enter_async_context(Replica(server, kinds, rng))
            proxy = await stack.enter_async_context(Proxy(replica.url))
            authority = TlsConfig(authority=Material(data=replica.ca_pem))
            config = replace(of_server(server), server=proxy.url, tls=authority)
            for streaming, own in product((True, False), owns):
                name = f"{label}-{'stream' if streaming else 'list'}{'-own' if own else ''}"
                followers.append(Follower(name, config, rng, streaming=streaming, own=own, honest=kinds is HONEST))
            replicas.append(replica)
            proxies.append(proxy)
        rest = Rest(of_server(server), RuntimeMetrics())
        stack.push_async_callback(rest.aclose)
        client = Client(rest, observer=OwnWrites(follower.informer for follower in followers if follower.own))
        yield Stage(followers, replicas, Weather(server, proxies, rng), Backups(server, followers), client)


@asynccontextmanager
async def running(**work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()]
    try:
        yield tasks
    finally:
        for task in tasks:
            await cancel_and_wait(task)


async def soak(minutes: float, seed: int) -> None:
    """Raises Failed."""
    rng = random.Random(seed)
    rounds = max(1, round(minutes * 60 / ROUND))
    held: list[tuple[float, Census]] = []
    written: Counter[str] = Counter()
    before = Census.take()
    began = time.monotonic()
    async with staged(rng) as stage, running(**{each.name: each.follow() for each in stage.followers}) as following:
        for number in range(1, rounds + 1):
            stage.calm(False)
            async with running(writer=write(stage.client, rng, written), weather=stage.weather.blow()):
                await asyncio.sleep(minutes * 60 / rounds)
            stage.calm(True)
            objects = await converged(stage.followers, stage.client, PATIENCE)
            await stage.backups.maybe(number, stage.client)
            held.append((time.monotonic() - began, Census.take()))
            for task in following:
                if task.done():
                    raise Failed(f"{task.get_name()} has ended") from task.exception()
            if wrong := [f"{each.name}: {text}" for each in stage.followers for text in each.wrong]:
                raise Failed(f"{len(wrong)} events that must not be: {'; '.join(wrong[:5])}")
            print(
                f"{held[-1][0]:5.0f} s, round {number} of {rounds}: store == server == reconciled, {objects} objects, "
                f"{written['done']} writes; {held[-1][1]}",
                flush=True,
            )
    report(stage, complete=minutes >= FULL)
    steady(held, judge_memory=minutes >= FULL)
    await nothing_left(before)
    print("passed")


def report(stage: Stage, *, complete: bool) -> None:
    """What the informers went through. Raises Failed where a ``complete`` run spared them something."""
    said: Counter[str] = Counter(dict.fromkeys(map(str, EVERY), 0))
    for replica in stage.replicas:
        said.update(replica.said)
    restarts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
    for follower in stage.followers:
        restarts.update(follower.informer.status().restarts)
        told = ", ".join(f"{count} {name}" for name, count in sorted(follower.seen.items()))
        print(f"{follower.name}: told of {told}")
    weather = stage.weather
    troubles = {
        "restores": Counter({"etcd restored from a backup": stage.backups.restored}),
        "weather": weather.happened,
        "faults": weather.hits,
        "replicas": said,
        "informers began again": restarts,
    }
    for what, counted in troubles.items():
        print(f"{what}: {dict(counted)}")
    missing = [name for counted in troubles.values() for name, count in counted.items() if not count]
    if missing and complete:
        raise Failed(f"never reached the informers: {', '.join(missing)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    configure_logging("error")  # what the informers warn of is what they are put through
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        try:
            runner.run(soak(arguments.minutes, arguments.seed))
        except Failed as failure:
            raise SystemExit(f"FAILED: {failure}") from failure.__cause__


if __name__ == "__main__":
    main()
