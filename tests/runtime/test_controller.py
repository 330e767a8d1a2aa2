"""One controller: which keys it is given, with which priority, and what becomes of a reconcile that does not return."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    LOW_PRIORITY,
    NODES,
    PODS,
    SECRETS,
    Client,
    Controller,
    Event,
    Key,
    Manager,
    ManagerOptions,
    Manifest,
    Request,
    Result,
    RuntimeMetrics,
    Stored,
    Watch,
    manifest_resource,
    owner_keys,
)
from kaito.runtime.log import reconcile_scope
from kaito.runtime.metrics.controllers import DURATION_BUCKETS, QueueStatistics
from kaito.runtime.metrics.series import Histogram
from support.controlplane import ControlPlane
from support.waiting import eventually

QUIET = ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0)


def config_map(name: str, namespace: str, **metadata: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, **metadata}}


def within(namespace: str) -> Callable[[Event[Any]], bool]:
    """Objects of other tests may be on the same server."""
    return lambda event: event.current.key.namespace == namespace


class Recording:
    def __init__(self, action: Callable[[Request], Any] | None = None) -> None:
        self.calls: list[Request] = []
        self._action = action

    async def reconcile(self, request: Request) -> Result | None:
        self.calls.append(request)
        outcome = self._action(request) if self._action else None
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        return outcome if isinstance(outcome, Result) else None

    def attempts(self, name: str) -> list[int]:
        return [request.attempt for request in self.calls if request.key.name == name]


@asynccontextmanager
async def running(control_plane: ControlPlane, *controllers: Controller) -> AsyncIterator[Manager]:
    manager = Manager(control_plane.config, QUIET)
    for controller in controllers:
        manager.add(controller)
    task = asyncio.create_task(manager.run(), name="manager under test")
    try:
        await eventually(lambda: manager.elected.is_set() or task.done())
        yield manager
    finally:
        manager.stop()
        await task


def sample(manager: Manager, name: str, **labels: str) -> float:
    value = manager.metrics.get_sample_value(name, labels)
    assert value is not None
    return value


# Which keys


def pod_of(kind: str, api_version: str, *, controller: bool = True) -> Stored[Any]:
    owner = {"apiVersion": api_version, "kind": kind, "name": "owner", "uid": "u", "controller": controller}
    metadata = {"name": "p", "namespace": "n", "ownerReferences": [owner]}
    return Stored(PODS, json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata}).encode())


MACHINES = manifest_resource("kaito.sh", "v1", "Machine", "machines", namespaced=False)


@pytest.mark.parametrize(
    ("owned", "owner", "keys"),
    [
        (pod_of("ConfigMap", "v1"), CONFIG_MAPS, [Key("n", "owner")]),
        (pod_of("Machine", "kaito.sh/v1"), MACHINES, [Key("", "owner")]),
        (pod_of("Machine", "kaito.sh/v1alpha1"), MACHINES, [Key("", "owner")]),
        (pod_of("Machine", "other.io/v1"), MACHINES, []),
        (pod_of("Node", "v1"), MACHINES, []),
        (pod_of("Machine", "kaito.sh/v1", controller=False), MACHINES, []),
    ],
    ids=["namespaced", "cluster-scoped", "another version", "another group", "another kind", "not the controller"],
)
def test_an_owner_is_found_by_group_and_kind_and_has_a_namespace_only_if_its_kind_has(
    owned: Stored[Any], owner: Any, keys: list[Key]
) -> None:
    """Pitfall 58."""
    assert list(owner_keys(owner)(owned)) == keys


async def test_what_was_there_comes_after_what_happens_now(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfalls 20 and 50: all of the first list is queued, at low priority, before a worker starts; also by way of a mapper;
    an event raises a key."""
    for number in range(5):
        await client.create(SECRETS, config_map(f"s{number}", namespace) | {"kind": "Secret"})
    proceed, began = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> None:
        began.set()
        await proceed.wait()

    def mapped(stored: Stored[Any]) -> list[Key]:
        return [Key(namespace, f"for-{stored.key.name}")] if stored.key.name.startswith("s") else []

    reconciler = Recording(wait)
    controller = Controller("test", reconciler, watches=[Watch(SECRETS, to=mapped, namespaces=[namespace])])
    async with running(control_plane, controller) as manager:
        await began.wait()

        def depth(priority: int) -> float | None:
            labels = {"name": "test", "controller": "test", "priority": str(priority)}
            return manager.metrics.get_sample_value("workqueue_depth", labels)

        assert depth(LOW_PRIORITY) == 4
        assert depth(0) == 0
        # A server lists in whatever order it likes.
        changed = "s0" if reconciler.attempts("for-s4") else "s4"
        await client.patch(SECRETS, changed, {"metadata": {"labels": {"a": "b"}}}, namespace=namespace)
        await eventually(lambda: depth(0) == 1)
        assert depth(LOW_PRIORITY) == 3
        proceed.set()
        await eventually(lambda: len(reconciler.calls) == 5)
    assert reconciler.calls[1].key.name == f"for-{changed}"


async def test_a_requeued_key_keeps_its_priority_unless_the_result_says_otherwise(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    for name in ("a", "b", "c"):
        await client.create(CONFIG_MAPS, config_map(name, namespace))
    proceed, began = asyncio.Event(), asyncio.Event()

    async def act(request: Request) -> Result | None:
        if request.key.name != "c":
            return Result(requeue_after=0.01, priority=None if request.key.name == "a" else 7)
        if not (recording.attempts("a") and recording.attempts("b")):
            return Result(requeue_after=0.01)
        began.set()
        await proceed.wait()
        return None

    recording = Recording(act)
    controller = Controller(
        "test",
        recording,
        watches=[
            Watch(
                CONFIG_MAPS,
                lambda stored: [stored.key],
                namespaces=[namespace],
                predicate=lambda event: event.current.key.name in "abc",
            )
        ],
    )
    async with running(control_plane, controller) as manager:
        await began.wait()

        def depth(priority: int) -> float | None:
            labels = {"name": "test", "controller": "test", "priority": str(priority)}
            return manager.metrics.get_sample_value("workqueue_depth", labels)

        await eventually(lambda: depth(LOW_PRIORITY) == 1 and depth(7) == 1)
        proceed.set()


async def test_reads_are_fresh_while_a_reconcile_takes_its_time(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 24: nobody's slowness holds up the store."""
    proceed, began = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> None:
        began.set()
        await proceed.wait()

    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(
        control_plane, Controller("test", Recording(wait), CONFIG_MAPS, predicate=within(namespace))
    ) as manager:
        await began.wait()
        lister = manager.cache.lister(CONFIG_MAPS)
        for number in range(5):
            await client.create(CONFIG_MAPS, config_map(f"b{number}", namespace))
        await eventually(lambda: lister.stored("b4", namespace))
        proceed.set()


async def test_every_object_is_looked_at_again_regularly(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    reconciler = Recording()
    async with running(
        control_plane, Controller("test", reconciler, CONFIG_MAPS, predicate=within(namespace), resync_period=0.05)
    ):
        await eventually(lambda: len(reconciler.attempts("a")) >= 3)


# What becomes of a reconcile


async def test_a_reconcile_that_is_cancelled_from_within_fails_and_its_worker_lives(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 53: awaiting something that somebody else cancelled is an error like any other."""

    async def awaits_something_cancelled(request: Request) -> None:
        if request.key.name == "a" and request.attempt < 2:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    reconciler = Recording(awaits_something_cancelled)
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(
        control_plane, Controller("test", reconciler, CONFIG_MAPS, predicate=within(namespace))
    ) as manager:
        await eventually(lambda: reconciler.attempts("a") == [0, 1, 2])
        await client.create(CONFIG_MAPS, config_map("b", namespace))
        await eventually(lambda: reconciler.attempts("b") == [0])
        assert sample(manager, "controller_runtime_reconcile_errors_total", controller="test") == 2


async def test_a_result_with_a_delay_does_not_start_the_back_off_over_before_a_success(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 60."""
    outcomes = iter([ValueError(), ValueError(), Result(requeue_after=0.001), ValueError(), None])

    def act(request: Request) -> Any:
        outcome = next(outcomes) if request.key.name == "a" else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    reconciler = Recording(act)
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(control_plane, Controller("test", reconciler, CONFIG_MAPS, predicate=within(namespace))):
        await eventually(lambda: reconciler.attempts("a") == [0, 1, 2, 0, 1])


async def test_a_timeout_of_the_reconcilers_own_is_not_counted_as_the_controllers(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    async def own(request: Request) -> None:
        if request.key.name == "a" and request.attempt == 0:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)

    reconciler = Recording(own)
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(
        control_plane, Controller("test", reconciler, CONFIG_MAPS, predicate=within(namespace), reconcile_timeout=60.0)
    ) as manager:
        await eventually(lambda: reconciler.attempts("a") == [0, 1])
        assert sample(manager, "controller_runtime_reconcile_timeouts_total", controller="test") == 0
        assert sample(manager, "controller_runtime_reconcile_errors_total", controller="test") == 1


async def test_what_the_starter_has_bound_is_not_seen_by_workers(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 108."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
    variable.set("the starter's")
    seen: list[tuple[str, str]] = []

    def look(request: Request) -> None:
        scope = reconcile_scope.get()
        assert scope is not None
        assert (scope.namespace, scope.name) == request.key
        seen.append((variable.get(), scope.reconcile_id))
        variable.set("another reconcile's")

    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(control_plane, Controller("test", Recording(look), CONFIG_MAPS, predicate=within(namespace))):
        await eventually(lambda: seen)
    assert seen[0][0] == "clean"
    assert len({number for _, number in seen}) == len(seen), "each reconcile has an id of its own"
    assert reconcile_scope.get() is None


async def test_stopping_while_the_caches_sync_is_not_an_error(control_plane: ControlPlane) -> None:
    """Pitfall 52."""
    manager = Manager(control_plane.config, QUIET)
    manager.add(Controller("test", Recording(), manifest_resource("example.com", "v1", "Widget", "widgets")))
    task = asyncio.create_task(manager.run())
    await eventually(lambda: any(status.last_error for status in manager.cache.statuses()))
    manager.stop()
    async with asyncio.timeout(5):
        await task
    assert not manager.elected.is_set()


async def test_a_controller_that_comes_late_and_cannot_sync_ends_the_manager(control_plane: ControlPlane) -> None:
    """Pitfall 51."""
    manager = Manager(control_plane.config, QUIET)
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    missing = manifest_resource("example.com", "v1", "Widget", "widgets")
    manager.add(Controller("late", Recording(), missing, sync_timeout=2.0))
    with pytest.raises(Exception, match=r"not synced after 2 s: Widget\.example\.com/v1: the server could not find"):
        await task


async def test_a_handler_that_was_removed_is_let_go(control_plane: ControlPlane) -> None:
    """Pitfall 56."""
    async with running(control_plane) as manager:
        informer = manager.cache.informer(NODES)
        await informer.wait_synced()

        def register() -> weakref.ref[Any]:
            class Handler:
                def __call__(self, event: Event[Any]) -> None:
                    pass

            handler = Handler()
            informer.add_handler(handler).remove()
            return weakref.ref(handler)

        references = [register() for _ in range(1000)]
        gc.collect()
        assert not any(reference() for reference in references)


# Metrics


def test_a_hundred_priorities_have_twenty_five_labels_and_one_for_the_rest() -> None:
    """Pitfall 48."""
    metrics = RuntimeMetrics()
    depth = dict.fromkeys(range(-50, 50), 2)
    empty = Histogram(DURATION_BUCKETS)
    metrics.watch_queue("test", lambda: QueueStatistics(depth, 0, 0, 0, 0, empty, empty, 0.0, 0.0))
    (family,) = (family for family in metrics.registry.collect() if family.name == "workqueue_depth")
    samples = {item.labels["priority"]: item.value for item in family.samples}
    assert len(samples) == 26
    assert sum(samples.values()) == 200
    assert samples["0"] == 2
    assert samples["exceeded_cardinality_limit"] == 2 * 75
