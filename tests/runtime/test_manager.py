"""Controllers and managers on an API server: what is reconciled, how often, by whom, and what is left afterwards."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    EVENTS,
    LEASES,
    SECRETS,
    Client,
    ConfigError,
    Controller,
    ElectionConfig,
    FencedError,
    Key,
    LeadershipLost,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    ObjectReference,
    Request,
    RestConfig,
    Result,
    ServiceUnavailable,
    Stored,
    SyncTimeout,
    TerminalError,
    Watch,
    manifest_resource,
    owner_reference,
)
from kaito.runtime.serving.health import HttpServer, local_only
from kaito.runtime.transport.client import meta_of
from support.controlplane import ControlPlane
from support.front import Front
from support.waiting import eventually

LOCAL = ManagerOptions(metrics_address="127.0.0.1:0", health_address="127.0.0.1:0", grace_period=5.0)


def config_map(name: str, namespace: str, **metadata: Any) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, **metadata}}


class Recording:
    """A reconciler that remembers its calls and checks that no key is worked on twice at once."""

    def __init__(self, action: Callable[[Request], Any] | None = None) -> None:
        self.calls: list[Request] = []
        self.active: Counter[Key] = Counter()
        self._action = action

    async def reconcile(self, request: Request) -> Result | None:
        self.active[request.key] += 1
        assert self.active[request.key] == 1, f"{request.key} is reconciled twice at once"
        try:
            await asyncio.sleep(0)
            self.calls.append(request)
            outcome = self._action(request) if self._action else None
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
            return outcome if isinstance(outcome, Result) else None
        finally:
            self.active[request.key] -= 1

    def count(self, name: str) -> int:
        return sum(request.key.name == name for request in self.calls)


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[Manager]:
    task = asyncio.create_task(manager.run(), name="manager under test")
    started = asyncio.create_task(manager.elected.wait())
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if task.done():
            await task
        yield manager
    finally:
        started.cancel()
        manager.stop()
        await task


def only(namespace: str) -> Callable[[Any], bool]:
    return lambda event: (
        event.current.key.namespace == namespace and not event.current.key.name.startswith("kube-root-ca")
    )


@pytest.fixture
def config(control_plane: ControlPlane) -> RestConfig:
    return control_plane.config


async def test_every_object_is_reconciled_at_start_and_after_each_change(
    config: RestConfig, client: Client, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map("before", namespace))
    reconciler = Recording()
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace), max_concurrent=4))
    async with running(manager):
        await eventually(lambda: reconciler.count("before") == 1)
        await client.create(CONFIG_MAPS, config_map("after", namespace))
        await eventually(lambda: reconciler.count("after") == 1)
        await client.delete(CONFIG_MAPS, "after", namespace)
        await eventually(lambda: reconciler.count("after") == 2)


async def test_owned_and_watched_objects_lead_to_their_owner(
    config: RestConfig, client: Client, namespace: str
) -> None:
    owner = meta_of(CONFIG_MAPS, await client.create(CONFIG_MAPS, config_map("owner", namespace)))
    reconciler = Recording()

    def named(stored: Stored[Any]) -> list[Key]:
        return [Key(namespace, stored.labels["for"])] if "for" in stored.labels else []

    manager = Manager(config, LOCAL)
    manager.add(
        Controller(
            "test",
            reconciler,
            CONFIG_MAPS,
            owns=[SECRETS],
            watches=[Watch(LEASES, to=named, namespaces=[namespace])],
            predicate=only(namespace),
        )
    )
    async with running(manager):
        await eventually(lambda: reconciler.count("owner") == 1)
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s", "ownerReferences": [owner_reference(CONFIG_MAPS, owner)]},
        }
        await client.create(SECRETS, body, namespace=namespace)
        await eventually(lambda: reconciler.count("owner") == 2)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l", "labels": {"for": "first"}},
        }
        await client.create(LEASES, lease, namespace=namespace)
        await eventually(lambda: reconciler.count("first") == 1)
        await client.patch(LEASES, "l", {"metadata": {"labels": {"for": "second"}}}, namespace=namespace)
        await eventually(lambda: (reconciler.count("first"), reconciler.count("second")) == (2, 1))


async def test_a_failure_is_tried_again_and_counted_a_terminal_one_is_not(
    config: RestConfig, client: Client, namespace: str
) -> None:
    def act(request: Request) -> None:
        if request.key.name == "flaky" and request.attempt < 3:
            raise ValueError("not yet")
        if request.key.name == "hopeless":
            raise TerminalError("never")
        if request.key.name == "bug" and request.attempt < 1:
            raise TypeError("oops")

    reconciler = Recording(act)
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace)))
    for name in ("flaky", "hopeless", "bug"):
        await client.create(CONFIG_MAPS, config_map(name, namespace))
    async with running(manager):
        await eventually(lambda: reconciler.count("flaky") == 4 and reconciler.count("bug") == 2)
        assert [request.attempt for request in reconciler.calls if request.key.name == "flaky"] == [0, 1, 2, 3]
        assert reconciler.count("hopeless") == 1
        samples = await scrape(manager)
        label = '{controller="test"}'
        assert samples[f"controller_runtime_reconcile_errors_total{label}"] == 5
        assert samples[f"controller_runtime_terminal_reconcile_errors_total{label}"] == 1
        by_reason = {
            key: value for key, value in samples.items() if key.startswith("kaito_runtime_reconcile_errors_total")
        }
        assert sum(by_reason.values()) == 5
        assert any("TerminalError" in key and value == 1 for key, value in by_reason.items())
        assert samples[f"controller_runtime_reconcile_panics_total{label}"] == 1
        assert samples['controller_runtime_reconcile_total{controller="test",result="success"}'] == 2


async def test_requeue_after_looks_again(config: RestConfig, client: Client, namespace: str) -> None:
    reconciler = Recording(lambda request: Result(requeue_after=0.01))
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace)))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(manager):
        await eventually(lambda: reconciler.count("a") >= 3)
        assert all(request.attempt == 0 for request in reconciler.calls)


async def test_a_reconcile_that_takes_too_long_is_stopped_and_counted(
    config: RestConfig, client: Client, namespace: str
) -> None:
    async def slow(request: Request) -> None:
        if request.attempt == 0:
            await asyncio.sleep(60)

    reconciler = Recording(slow)
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace), reconcile_timeout=0.05))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(manager):
        await eventually(lambda: reconciler.count("a") == 2)
        assert (await scrape(manager))['controller_runtime_reconcile_timeouts_total{controller="test"}'] == 1


async def test_stopping_lets_a_reconcile_finish_its_write(config: RestConfig, client: Client, namespace: str) -> None:
    began, go = asyncio.Event(), asyncio.Event()
    manager = Manager(config, LOCAL)

    async def write(request: Request) -> None:
        if request.key.name == "a":
            began.set()
            await go.wait()
            await manager.client.create(CONFIG_MAPS, config_map("written", namespace))

    manager.add(Controller("test", Recording(write), CONFIG_MAPS, predicate=only(namespace)))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    task = asyncio.create_task(manager.run())
    await began.wait()
    manager.stop()
    await asyncio.sleep(0.05)
    assert not task.done()
    go.set()
    await task
    assert await client.get(CONFIG_MAPS, "written", namespace)


@pytest.mark.parametrize("grace_period", [0.1, 0.0])
async def test_a_reconcile_that_does_not_end_is_cancelled_after_the_grace_period(
    config: RestConfig, client: Client, namespace: str, grace_period: float
) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck(request: Request) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    manager = Manager(config, ManagerOptions(metrics_address="0", health_address="0", grace_period=grace_period))
    manager.add(Controller("test", Recording(stuck), CONFIG_MAPS, predicate=only(namespace)))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    task = asyncio.create_task(manager.run())
    await began.wait()
    manager.stop()
    async with asyncio.timeout(5):
        await task
    assert cancelled.is_set()


async def test_a_missing_resource_ends_the_manager_with_its_name(config: RestConfig) -> None:
    missing = manifest_resource("example.com", "v1", "Widget", "widgets")
    manager = Manager(config, ManagerOptions(metrics_address="0", health_address="0", sync_timeout=0.3))
    manager.add(Controller("test", Recording(), missing))
    with pytest.raises(SyncTimeout, match=r"Widget\.example\.com/v1"):
        await manager.run()


def definition(group: str) -> Manifest:
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


async def test_a_kind_that_is_missing_is_waited_for_by_those_who_need_it(
    config: RestConfig, client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nothing else from running; a kind that is there is in the cache before anything starts."""
    monkeypatch.setattr("kaito.runtime.manager.served.PERIOD", 0.05)
    group = f"{namespace}.example.com"
    widgets = manifest_resource(group, "v1", "Widget", "widgets")
    manager, reconciler, synced = Manager(config, LOCAL), Recording(), []
    manager.add(Controller("others", Recording(), CONFIG_MAPS))
    manager.when_served(widgets, lambda: manager.add(Controller("widgets", reconciler, widgets)))
    manager.when_served(SECRETS, lambda: synced.append(manager.cache.lister(SECRETS)))
    async with running(manager):
        assert synced[0].stored_list() == []
        with pytest.raises(ConfigError, match="too late"):
            manager.when_served(SECRETS, lambda: None)
        assert (await probe(manager, "/readyz"))[0] == 200
        assert reconciler.calls == []
        await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition(group))

        async def served() -> bool:
            try:
                return await client.list(widgets, namespace) == []
            except NotFound:
                return False

        await eventually(served)
        widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": namespace}}
        await client.create(widgets, widget)
        await eventually(lambda: reconciler.count("a") == 1)


async def test_a_runnable_that_fails_ends_the_manager(config: RestConfig) -> None:
    async def broken() -> None:
        raise RuntimeError("the disk is full")

    manager = Manager(config, LOCAL)
    manager.add_runnable("broken", broken, supervised=False)
    with pytest.raises(RuntimeError, match="disk is full"):
        await manager.run()


async def test_names_are_unique_and_a_manager_runs_once(config: RestConfig) -> None:
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", Recording(), CONFIG_MAPS))
    with pytest.raises(ConfigError, match="names must be unique"):
        manager.add(Controller("test", Recording(), SECRETS))
    async with running(manager):
        with pytest.raises(RuntimeError, match="only once"):
            await manager.run()
    with pytest.raises(ConfigError, match="stopping"):
        manager.add(Controller("late", Recording(), SECRETS))
    with pytest.raises(ConfigError, match="at least 1"):
        Controller("none", Recording(), SECRETS, max_concurrent=0)


async def test_a_controller_added_while_running_starts_at_once(
    config: RestConfig, client: Client, namespace: str
) -> None:
    manager = Manager(config, LOCAL)
    reconciler = Recording()
    async with running(manager):
        manager.add(Controller("late", reconciler, CONFIG_MAPS, predicate=only(namespace)))
        await client.create(CONFIG_MAPS, config_map("a", namespace))
        await eventually(lambda: reconciler.count("a") == 1)


async def scrape(manager: Manager) -> dict[str, float]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{manager.metrics_port}/metrics") as answer,
    ):
        assert answer.status == 200
        text = await answer.text()
    return {
        sample.name
        + (
            "{" + ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items())) + "}"
            if sample.labels
            else ""
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def probe(manager: Manager, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{manager.health_port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_metrics_have_the_names_that_dashboards_know(config: RestConfig, client: Client, namespace: str) -> None:
    manager = Manager(config, LOCAL)
    reconciler = Recording()
    manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace), max_concurrent=3))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(manager):
        await eventually(lambda: reconciler.count("a") == 1)
        await manager.client.get(CONFIG_MAPS, "a", namespace)
        samples = await scrape(manager)
    names = {name.partition("{")[0] for name in samples}
    assert {
        "controller_runtime_reconcile_total",
        "controller_runtime_reconcile_errors_total",
        "controller_runtime_terminal_reconcile_errors_total",
        "controller_runtime_reconcile_panics_total",
        "controller_runtime_reconcile_timeouts_total",
        "controller_runtime_reconcile_time_seconds_bucket",
        "controller_runtime_max_concurrent_reconciles",
        "controller_runtime_active_workers",
        "workqueue_depth",
        "workqueue_adds_total",
        "workqueue_retries_total",
        "workqueue_queue_duration_seconds_bucket",
        "workqueue_work_duration_seconds_bucket",
        "workqueue_unfinished_work_seconds",
        "workqueue_longest_running_processor_seconds",
        "rest_client_requests_total",
        "rest_client_request_duration_seconds_bucket",
    } <= names
    assert not {name for name in names if name.endswith("_created")}
    assert samples['controller_runtime_max_concurrent_reconciles{controller="test"}'] == 3
    assert samples['workqueue_depth{controller="test",name="test",priority="0"}'] == 0
    for result in ("error", "requeue", "requeue_after"):
        assert samples[f'controller_runtime_reconcile_total{{controller="test",result="{result}"}}'] == 0


async def test_probes_tell_the_truth(front: Front, config: RestConfig, namespace: str) -> None:
    front.faults.add(Fault("*", "configmaps", error=ServiceUnavailable("starting"), count=-1))
    manager = Manager(config, LOCAL)
    manager.add(Controller("test", Recording(), CONFIG_MAPS))
    task = asyncio.create_task(manager.run())
    try:
        await eventually(lambda: manager.health_port)
        assert await probe(manager, "/healthz") == (200, "ok")
        status, text = await probe(manager, "/readyz")
        assert status == 500
        assert "[-]informer-sync failed: reason withheld" in text
        assert (await probe(manager, "/readyz?exclude=informer-sync"))[0] == 200
        assert (await probe(manager, "/readyz/nonsense"))[0] == 404
        front.faults.clear()
        await manager.elected.wait()
        assert await probe(manager, "/readyz") == (200, "ok")
        assert "[+]informer-sync ok" in (await probe(manager, "/readyz?verbose"))[1]
        assert "test worker 0" in (await probe(manager, "/debug/tasks"))[1]
    finally:
        manager.stop()
        await task


async def test_events_are_written_and_repeats_become_a_series(
    config: RestConfig, client: Client, namespace: str
) -> None:
    owner = meta_of(CONFIG_MAPS, await client.create(CONFIG_MAPS, config_map("a", namespace)))
    manager = Manager(config, LOCAL)
    recorder = manager.recorder("test-controller")
    async with running(manager):
        reference = ObjectReference.of(CONFIG_MAPS, owner)
        for _ in range(3):
            recorder.event(reference, "Warning", "Broken", "it broke")
        recorder.event(reference, "Normal", "Mended", "€" * 5000)

        async def written() -> list[Manifest]:
            found = await client.list(EVENTS, namespace)
            found = [event for event in found if event["reportingController"] == "test-controller"]
            return found if len(found) == 2 and any(event.get("series") for event in found) else []

        events = {event["reason"]: event for event in await eventually(written)}
    assert events["Broken"]["series"]["count"] == 3
    assert events["Broken"]["type"] == "Warning"
    assert events["Broken"]["regarding"]["uid"] == owner.uid
    assert events["Mended"]["note"] == "€" * 340 + "…"


def electing(identity: str, namespace: str, **durations: float) -> ManagerOptions:
    times = {"lease_duration": 1.6, "renew_deadline": 1.0, "retry_period": 0.1, **durations}
    election = ElectionConfig(namespace=namespace, name="test-leader", identity=identity, **times)
    return ManagerOptions(metrics_address="127.0.0.1:0", health_address="0", election=election, grace_period=2.0)


async def test_one_of_two_leads_and_the_other_follows_at_once_when_it_stops(
    config: RestConfig, client: Client, namespace: str
) -> None:
    reconcilers = [Recording(), Recording()]
    durations = {"lease_duration": 60.0, "renew_deadline": 40.0}
    managers = [Manager(config, electing(f"m{number}", namespace, **durations)) for number in range(2)]
    for manager, reconciler in zip(managers, reconcilers, strict=True):
        manager.add(Controller("test", reconciler, CONFIG_MAPS, predicate=only(namespace)))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    async with running(managers[0]):
        second = asyncio.create_task(managers[1].run())
        await eventually(lambda: managers[1].cache.synced and reconcilers[0].count("a"))
        assert not managers[1].elected.is_set()
        with pytest.raises(FencedError):
            await managers[1].client.create(CONFIG_MAPS, config_map("forbidden", namespace))
        assert (await scrape(managers[0]))['leader_election_master_status{name="test-leader"}'] == 1
        assert (await scrape(managers[1]))['leader_election_master_status{name="test-leader"}'] == 0
        assert reconcilers[1].calls == []
    lease = await client.get(LEASES, "test-leader", namespace)
    await eventually(managers[1].elected.is_set)
    await eventually(lambda: reconcilers[1].count("a"))
    assert lease["spec"]["leaseTransitions"] in (0, 1)
    managers[1].stop()
    await second
    assert (await client.get(LEASES, "test-leader", namespace))["spec"]["holderIdentity"] == ""


async def test_a_leader_that_cannot_renew_ends_with_an_error_and_does_not_write_any_more(
    front: Front, config: RestConfig, client: Client, namespace: str
) -> None:
    manager = Manager(config, electing("m", namespace))
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    front.faults.add(Fault("*", "leases.coordination.k8s.io", error=ServiceUnavailable("down"), count=-1))
    with pytest.raises(LeadershipLost, match="could not be renewed within 1 s"):
        async with asyncio.timeout(10):
            await task
    with pytest.raises(FencedError):
        await manager.client.create(CONFIG_MAPS, config_map("late", namespace))


async def test_a_lease_that_somebody_else_takes_is_lost_at_once(
    config: RestConfig, client: Client, namespace: str
) -> None:
    manager = Manager(config, electing("m", namespace))
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}}
    await client.patch(LEASES, "test-leader", thief, namespace=namespace)
    with pytest.raises(LeadershipLost, match="held by thief"):
        async with asyncio.timeout(10):
            await task
    lease = await client.get(LEASES, "test-leader", namespace)
    assert lease["spec"]["holderIdentity"] == "thief", "a lost lease is not released"


async def test_a_free_port_on_all_interfaces_is_one_port_for_all_of_them() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    server = HttpServer(":0", {"/": hello})
    await server.start()
    try:
        addresses = ["127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])]
        async with aiohttp.ClientSession() as session:
            for address in addresses:
                async with session.get(f"http://{address}:{server.port}/") as answer:
                    assert await answer.text() == "hello"
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("::ffff:127.0.0.1", 200),
        ("::1", 200),
        ("10.0.0.1", 403),
        ("::ffff:10.0.0.1", 403),
        ("", 403),
    ],
)
async def test_stacks_are_shown_on_this_machine_only(peer: str, status: int) -> None:
    async def stacks(request: web.Request) -> web.Response:
        return web.Response(text="secrets in the frames")

    transport = mock.Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: {"peername": (peer, 1) if peer else ""}.get(name)
    request = make_mocked_request("GET", "/debug/tasks", transport=transport)
    assert (await local_only(stacks)(request)).status == status
