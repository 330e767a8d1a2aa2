"""From events to keys: what a predicate or mapper that fails must not lose, and which events pass a filter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    SECRETS,
    Cache,
    Client,
    ConfigError,
    Controller,
    ControllerRun,
    Event,
    Key,
    LabelSelector,
    Manager,
    ManagerOptions,
    Manifest,
    Request,
    Resource,
    Rest,
    Result,
    RuntimeMetrics,
    Scoped,
    Stored,
    SyncTimeout,
    Watch,
    generation_changed,
    manifest_resource,
    owner_reference,
)
from kaito.runtime.objects.stored import decode_meta
from support.controlplane import ControlPlane
from support.scripted import Scripted, listing, scripted, status, stream
from support.waiting import eventually

_DEPTH = {"name": "c", "controller": "c", "priority": "0"}
_QUIET = ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0)


def config_map(version: int, name: str = "a", uid: str = "u", **labels: str) -> Manifest:
    metadata = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata | {"generation": 1}}


class Recording:
    def __init__(self, action: Callable[[Request], Any] = lambda request: None) -> None:
        self.calls: list[str] = []
        self._action = action

    async def reconcile(self, request: Request) -> Result | None:
        self.calls.append(request.key.name)
        outcome = self._action(request)
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        return outcome if isinstance(outcome, Result) else None


@dataclass
class Bench:
    """A controller that watches an API server of which only the cache is real."""

    run: ControllerRun
    cache: Cache
    metrics: RuntimeMetrics

    def write(self, manifest: Manifest) -> None:
        self.cache.written(CONFIG_MAPS, json.dumps(manifest).encode())


@asynccontextmanager
async def bench(controller: Controller, *there: Manifest) -> AsyncIterator[Bench]:
    async with served(*there) as script:
        metrics = RuntimeMetrics()
        rest = Rest(script.config, metrics)
        cache = Cache(rest, metrics)
        run = ControllerRun(controller, cache, metrics)
        run.declare()
        async with asyncio.TaskGroup() as group:
            informers = [group.create_task(informer.run()) for informer in cache._informers()]
            task = group.create_task(run.run())
            await cache.wait_synced(10.0)
            try:
                yield Bench(run, cache, metrics)
            finally:
                await run.stop()
                await asyncio.wait([task])
                for informer in informers:
                    informer.cancel()
        await rest.aclose()


@asynccontextmanager
async def served(*there: Manifest) -> AsyncIterator[Scripted]:
    async def respond(request: Any) -> Any:
        if "sendInitialEvents" in request.query:
            return status(400, "BadRequest", "not here")
        return await stream(request) if "watch" in request.query else listing(*there, version=10)

    async with scripted(respond) as script:
        yield script


FOR_EVER = 1e6


class Paces:
    """A rate limiter with these delays, in seconds."""

    def __init__(self, *delays: float) -> None:
        self.left = list(delays)

    def when(self, item: Hashable) -> float:
        return self.left.pop(0) if self.left else FOR_EVER

    def failures(self, item: Hashable) -> int:
        return 0

    def forget(self, item: Hashable) -> None: ...


class Failing:
    """A mapper that fails as often as it is told to."""

    def __init__(self, *, times: int, on: Callable[[Stored[Any]], bool] = lambda stored: True) -> None:
        self.left = times
        self._on = on

    def __call__(self, stored: Stored[Any]) -> Iterable[Key]:
        yield Key("", f"first-of-{stored.resource_version}")
        if self.left and self._on(stored):
            self.left -= 1
            raise RuntimeError("a cache that has not synced yet")
        yield Key("", f"second-of-{stored.resource_version}")


async def test_an_event_whose_mapper_fails_is_mapped_in_the_end_and_its_half_at_once() -> None:
    reconciler = Recording()
    mapper = Failing(times=3)
    async with bench(Controller("c", reconciler, watches=[Watch(CONFIG_MAPS, mapper)])) as b:
        b.write(config_map(20))
        await eventually(lambda: "first-of-20" in reconciler.calls)
        await eventually(lambda: "second-of-20" in reconciler.calls)
        assert mapper.left == 0
        assert b.metrics.handler_errors_total.labels("configmaps").value == 3


async def test_a_state_that_cannot_be_mapped_keeps_not_the_other_from_being_mapped() -> None:
    reconciler = Recording()
    mapper = Failing(times=1 << 30, on=lambda stored: stored.resource_version == "20")
    async with bench(Controller("c", reconciler, watches=[Watch(CONFIG_MAPS, mapper)])) as b:
        b.write(config_map(20))
        b.write(config_map(21))
        await eventually(lambda: "second-of-21" in reconciler.calls)


async def test_a_predicate_that_fails_loses_nothing() -> None:
    reconciler, left = Recording(), [2]

    def predicate(event: Event[Any]) -> bool:
        if left[0]:
            left[0] -= 1
            raise LookupError("not yet")
        return True

    async with bench(Controller("c", reconciler, primary=CONFIG_MAPS, predicate=predicate)) as b:
        b.write(config_map(20))
        await eventually(lambda: reconciler.calls == ["a"])


async def test_a_mapper_that_always_fails_is_asked_ever_less_and_stops_with_its_controller() -> None:
    mapper, asked = Failing(times=1 << 30), list[float]()
    loop = asyncio.get_running_loop()

    def timed(stored: Stored[Any]) -> Iterable[Key]:
        asked.append(loop.time())
        return mapper(stored)

    async with bench(Controller("c", Recording(), watches=[Watch(CONFIG_MAPS, timed)])) as b:
        b.write(config_map(20))
        await eventually(lambda: len(asked) == 7)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert all(gap >= 0.005 * 2**number for number, gap in enumerate(gaps)), gaps


async def test_an_object_of_another_uid_is_a_deletion_and_an_addition_for_predicates() -> None:
    """What was deleted and made again while nobody watched has the same generation, and is another object."""
    reconciler, told = Recording(), list[str]()

    def note(event: Event[Any]) -> bool:
        told.append(event.type.value)
        return generation_changed(event)

    controller = Controller("c", reconciler, primary=CONFIG_MAPS, predicate=note)
    async with bench(controller, config_map(1, uid="first")) as b:
        await eventually(lambda: reconciler.calls == ["a"])
        b.write(config_map(20, uid="second"))
        await eventually(lambda: reconciler.calls == ["a", "a"])
    assert told == ["ADDED", "DELETED", "ADDED"]


async def test_a_resync_passes_every_filter() -> None:
    reconciler = Recording()
    controller = Controller("c", reconciler, primary=CONFIG_MAPS, predicate=generation_changed, resync_period=0.05)
    async with bench(controller, config_map(1)):
        await eventually(lambda: len(reconciler.calls) >= 3)


@asynccontextmanager
async def managed(control_plane: ControlPlane, *controllers: Controller) -> AsyncIterator[Manager]:
    manager = Manager(control_plane.config, _QUIET)
    for controller in controllers:
        manager.add(controller)
    task = asyncio.create_task(manager.run())
    try:
        await eventually(manager.elected.is_set)
        yield manager
    finally:
        manager.stop()
        await task


def of(resource: Resource[Manifest], name: str, namespace: str, **metadata: Any) -> Manifest:
    metadata = {"name": name, "namespace": namespace, **metadata}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


# Back-off


async def test_own_writes_do_not_shorten_the_back_off_and_those_of_others_do(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    attempts: list[float] = []
    loop, paces = asyncio.get_running_loop(), Paces(0.05, 0.05, 0.05, FOR_EVER)

    async def write_and_fail(request: Request) -> None:
        attempts.append(loop.time())
        note = {"data": {"attempt": str(len(attempts))}}
        await manager.client.patch(CONFIG_MAPS, request.key.name, note, namespace=namespace)
        raise RuntimeError("not yet")

    controller = Controller(
        "c",
        Recording(write_and_fail),
        primary=Scoped(CONFIG_MAPS, namespaces=[namespace], predicate=lambda event: event.current.key.name == "a"),
        rate_limiter=lambda: paces,
    )
    async with managed(control_plane, controller) as manager:
        await client.create(CONFIG_MAPS, of(CONFIG_MAPS, "a", namespace))
        await eventually(lambda: len(attempts) == 4)
        gaps = [later - earlier for earlier, later in pairwise(attempts)]
        # The first may meet the creation's own event, somebody else's change.
        assert all(gap >= 0.05 for gap in gaps[1:]), gaps
        await client.patch(CONFIG_MAPS, "a", {"data": {"by": "somebody else"}}, namespace=namespace)
        await eventually(lambda: len(attempts) == 5)


@pytest.mark.parametrize("delay", [0.0, -1.0])
async def test_a_time_that_has_passed_is_another_look_at_the_limiters_pace(delay: float) -> None:
    reconciler, paces = Recording(lambda request: Result(requeue_after=delay)), Paces(0.0, 0.0, FOR_EVER)
    controller = Controller("c", reconciler, primary=CONFIG_MAPS, rate_limiter=lambda: paces)
    async with bench(controller, config_map(1)) as b:
        await eventually(lambda: paces.left == [])
        assert reconciler.calls == ["a"] * 3
        assert (
            b.metrics.registry.get_sample_value(
                "controller_runtime_reconcile_total", {"controller": "c", "result": "requeue"}
            )
            == 3
        )
    with pytest.raises(ValueError, match="not a number"):
        Result(requeue_after=float("nan"))


# Controllers that come, go and see a part


async def test_a_controller_sees_only_its_scope(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    reconciler = Recording()
    only = LabelSelector.of({"mine": "yes"})
    controller = Controller(
        "c",
        reconciler,
        primary=Scoped(SECRETS, namespaces=[namespace], labels=only),
        owns=[Scoped(CONFIG_MAPS, namespaces=[namespace], labels=only)],
    )
    made = {}
    async with managed(control_plane, controller):
        for name, labels in (("seen", {"mine": "yes"}), ("unseen", {})):
            made[name] = await client.create(SECRETS, of(SECRETS, name, namespace, labels=labels))
        await eventually(lambda: reconciler.calls == ["seen"])
        for name, labels in (("hidden", {}), ("shown", {"mine": "yes"})):
            owner = owner_reference(SECRETS, decode_meta(SECRETS.encode(made["unseen"])))
            await client.create(CONFIG_MAPS, of(CONFIG_MAPS, name, namespace, labels=labels, ownerReferences=[owner]))
        await eventually(lambda: reconciler.calls == ["seen", "unseen"])
    with pytest.raises(ConfigError, match="two predicates"):
        Controller("c", reconciler, primary=Scoped(SECRETS, predicate=generation_changed), predicate=generation_changed)


async def test_watches_and_controllers_come_and_go_while_the_manager_runs(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> None:
        if request.key.name == "slow":
            entered.set()
            await leave.wait()

    reconciler = Recording(slow)
    manager = Manager(control_plane.config, _QUIET)
    mine = Scoped(CONFIG_MAPS, namespaces=[namespace], predicate=lambda event: "kube" not in event.current.key.name)
    controller = Controller("c", reconciler, primary=mine, max_concurrent=2)
    run = manager.add(controller)
    watch: Watch[Manifest] = Watch(SECRETS, lambda stored: [Key("secret", stored.key.name)], namespaces=[namespace])
    with pytest.raises(ConfigError, match="does not run"):
        await run.add_watch(watch)
    task = asyncio.create_task(manager.run())
    await eventually(manager.elected.is_set)
    await client.create(SECRETS, of(SECRETS, "before", namespace))
    subscription = await run.add_watch(watch)
    await eventually(lambda: reconciler.calls == ["before"])
    subscription.remove()
    subscription.remove()
    await client.create(SECRETS, of(SECRETS, "after", namespace))
    await client.create(CONFIG_MAPS, of(CONFIG_MAPS, "slow", namespace))
    await entered.wait()
    assert reconciler.calls == ["before", "slow"]

    ending = asyncio.create_task(run.stop())
    with pytest.raises(ConfigError, match="unique"):
        manager.add(controller)
    await asyncio.sleep(0)
    assert not ending.done(), "what is being reconciled is finished first"
    leave.set()
    await ending
    await eventually(lambda: manager.metrics.get_sample_value("workqueue_depth", _DEPTH) is None)
    await client.create(CONFIG_MAPS, of(CONFIG_MAPS, "late", namespace))
    await eventually(lambda: "c" not in manager._names)
    again = manager.add(controller)
    await eventually(lambda: sorted(reconciler.calls[2:]) == ["late", "slow"])
    await again.stop()
    manager.stop()
    await task


async def test_a_watch_that_cannot_sync_is_not_left_behind(control_plane: ControlPlane, namespace: str) -> None:

    manager = Manager(control_plane.config, _QUIET)
    primary = Scoped(CONFIG_MAPS, namespaces=[namespace])
    run = manager.add(Controller("c", Recording(), primary=primary, sync_timeout=0.3))
    task = asyncio.create_task(manager.run())
    await eventually(manager.elected.is_set)
    missing = manifest_resource("example.com", "v1", "Widget", "widgets")
    with pytest.raises(SyncTimeout):
        await run.add_watch(Watch(missing, lambda stored: ()))
    await manager.cache.remove(missing)
    manager.stop()
    await task
