"""What authors test with: the fake server behaves as a real one where controllers rely on it, and says where it does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    NAMESPACES,
    NODES,
    AlreadyExists,
    ApiError,
    BadRequest,
    Client,
    ConfigError,
    Conflict,
    Controller,
    ElectionConfig,
    Expired,
    FencedError,
    Invalid,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    NotImplementedByServer,
    OutcomeUnknown,
    PatchType,
    Request,
    Resource,
    Result,
    ServiceUnavailable,
    add_finalizer,
    generation_changed,
    manifest_resource,
    remove_finalizer,
)
from kaito.runtime.testing import Call, FakeServer, VirtualClock, delay, envtest, fail, lose_answer
from kaito.runtime.transport.client import meta_of

WIDGETS = manifest_resource("example.org", "v1", "Widget", "widgets")


def config_map(name: str, data: dict[str, str] | None = None, namespace: str = "n", **metadata: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": data or {},
    }


def obj(resource: Resource[Any], name: str, namespace: str = "", **fields: Any) -> Manifest:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **fields}


@pytest.fixture(params=["fake", "api server"])
async def either(request: pytest.FixtureRequest, client: Client, namespace: str) -> AsyncIterator[tuple[Client, str]]:
    """The fake server and a real one: what is tested with it is the same on both."""
    if request.param == "fake":
        yield FakeServer().client, "n"
    else:
        yield client, namespace


# As a real one


async def test_versions_conflicts_and_names(either: tuple[Client, str]) -> None:
    client, namespace = either
    created = await client.create(CONFIG_MAPS, config_map("a", {"x": "1"}, namespace))
    assert created["metadata"]["uid"]
    assert created["kind"] == "ConfigMap"
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAPS, config_map("a", namespace=namespace))
    updated = await client.update(CONFIG_MAPS, {**created, "data": {"x": "2"}})
    assert int(updated["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])
    same = await client.update(CONFIG_MAPS, updated)
    assert same["metadata"]["resourceVersion"] == updated["metadata"]["resourceVersion"], "nothing changed"
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, created)
    version = created["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await client.patch(
            CONFIG_MAPS, "a", {"metadata": {"resourceVersion": version}, "data": {}}, namespace=namespace
        )
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAPS, "a", namespace, uid="another")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "b", namespace)
    generated = await client.create(CONFIG_MAPS, config_map("", namespace=namespace, generateName="g-"))
    assert generated["metadata"]["name"].startswith("g-")


async def test_patches(either: tuple[Client, str]) -> None:
    client, namespace = either
    await client.create(CONFIG_MAPS, config_map("a", {"x": "1", "y": "2"}, namespace))
    patched = await client.patch(CONFIG_MAPS, "a", {"data": {"x": None, "z": "3"}}, namespace=namespace)
    assert patched["data"] == {"y": "2", "z": "3"}
    steps = [{"op": "test", "path": "/data/y", "value": "2"}, {"op": "replace", "path": "/data/y", "value": "4"}]
    patched = await client.patch(CONFIG_MAPS, "a", steps, namespace=namespace, kind=PatchType.JSON)
    assert patched["data"]["y"] == "4"
    with pytest.raises(Conflict):
        await client.patch(CONFIG_MAPS, "a", steps, namespace=namespace, kind=PatchType.JSON)
    missing = [{"op": "remove", "path": "/data/nothing"}]
    with pytest.raises(Invalid):
        await client.patch(CONFIG_MAPS, "a", missing, namespace=namespace, kind=PatchType.JSON)


async def test_finalizers_keep_an_object_until_the_last_one_goes(either: tuple[Client, str]) -> None:
    client, namespace = either
    created = await client.create(CONFIG_MAPS, config_map("a", namespace=namespace))
    held = await add_finalizer(client, CONFIG_MAPS, meta_of(CONFIG_MAPS, created), "example.org/hold")
    await client.delete(CONFIG_MAPS, "a", namespace)
    dying = await client.get(CONFIG_MAPS, "a", namespace)
    assert held is not None
    assert dying["metadata"]["deletionTimestamp"]
    await remove_finalizer(client, CONFIG_MAPS, meta_of(CONFIG_MAPS, dying), "example.org/hold")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", namespace)


async def test_status_is_apart_and_generations_count_what_is_desired(either: tuple[Client, str]) -> None:
    client, namespace = either
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    made = await client.create(DEPLOYMENTS, obj(DEPLOYMENTS, "d", namespace, spec=spec))
    told = await client.patch(
        DEPLOYMENTS,
        "d",
        {"spec": {"replicas": 9}, "status": {"replicas": 3}},
        namespace=namespace,
        subresource="status",
    )
    assert (told["spec"]["replicas"], told["status"]["replicas"], told["metadata"]["generation"]) == (1, 3, 1)
    scaled = await client.patch(
        DEPLOYMENTS, "d", {"spec": {"replicas": 2}, "status": {"replicas": 7}}, namespace=namespace
    )
    assert (scaled["spec"]["replicas"], scaled["status"]["replicas"], scaled["metadata"]["generation"]) == (2, 3, 2)
    assert made["metadata"]["generation"] == 1


async def test_lists_are_selected_and_paged(either: tuple[Client, str]) -> None:
    client, namespace = either
    for number in range(5):
        await client.create(CONFIG_MAPS, config_map(f"c{number}", None, namespace, labels={"half": str(number % 2)}))
    found = await client.list(CONFIG_MAPS, namespace, labels={"half": "0"})
    assert [obj["metadata"]["name"] for obj in found] == ["c0", "c2", "c4"]
    async with aclosing(client.pages(CONFIG_MAPS, namespace, labels={"half": "0"}, size=2)) as pages:
        assert [len(page) async for page in pages] == [2, 1]


async def test_a_watch_goes_on_from_where_a_list_was_and_sees_what_enters_and_leaves(
    either: tuple[Client, str],
) -> None:
    client, namespace = either
    first = await client.create(CONFIG_MAPS, config_map("a", None, namespace, labels={"in": "no"}))
    seen = []
    watch = client.watch(
        CONFIG_MAPS, namespace, labels={"in": "yes"}, resource_version=first["metadata"]["resourceVersion"]
    )
    async with aclosing(watch) as events:
        for value in ("yes", "yes", "no"):
            change = {"metadata": {"labels": {"in": value, "n": str(len(seen))}}}
            await client.patch(CONFIG_MAPS, "a", change, namespace=namespace)
            seen.append((await anext(events)).type)
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_dry_run_keeps_nothing(either: tuple[Client, str]) -> None:
    client, namespace = either
    dry = client.with_options(dry_run=True)
    await dry.create(CONFIG_MAPS, config_map("a", namespace=namespace))
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", namespace)
    await client.create(CONFIG_MAPS, config_map("a", namespace=namespace))
    await dry.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace=namespace)
    await dry.delete(CONFIG_MAPS, "a", namespace)
    assert (await client.get(CONFIG_MAPS, "a", namespace)).get("data", {}) == {}


# Its own


async def test_what_is_not_known_or_not_done_is_said() -> None:
    server = FakeServer()
    with pytest.raises(NotFound):
        await server.client.list(WIDGETS, "n")
    with pytest.raises(BadRequest):
        await server.client.create(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "n"}})
    assert await FakeServer(WIDGETS).client.list(WIDGETS, "n") == []
    await server.client.create(CONFIG_MAPS, config_map("a"))
    with pytest.raises(NotImplementedByServer):
        await server.client.server_side_apply(CONFIG_MAPS, config_map("a"))
    with pytest.raises(NotImplementedByServer):
        await server.client.patch(CONFIG_MAPS, "a", {}, namespace="n", kind=PatchType.STRATEGIC)
    await server.client.create(NAMESPACES, obj(NAMESPACES, "n"))
    await server.client.update_status(NAMESPACES, obj(NAMESPACES, "n", status={"phase": "Active"}))
    assert (await server.client.get(NAMESPACES, "n"))["status"] == {"phase": "Active"}
    await server.client.create(NODES, obj(NODES, "x"))
    assert [obj["metadata"]["name"] for obj in await server.client.list(NODES)] == ["x"]


async def test_nobody_changes_what_is_stored_but_by_a_write() -> None:
    server = FakeServer()
    body = config_map("a", {"x": "1"})
    created = await server.client.create(CONFIG_MAPS, body)
    body["data"]["x"] = created["data"]["x"] = "changed"
    found = await server.client.get(CONFIG_MAPS, "a", "n")
    assert found["data"] == {"x": "1"}


async def test_a_history_that_is_forgotten_expires() -> None:
    server = FakeServer()
    first = await server.client.create(CONFIG_MAPS, config_map("a"))
    await server.client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace="n")
    server.compact()
    version = first["metadata"]["resourceVersion"]
    with pytest.raises(Expired):
        async for _ in server.client.watch(CONFIG_MAPS, "n", resource_version=version):
            pass


async def test_faults_hit_what_they_name_and_no_more() -> None:
    server = FakeServer()
    await server.client.create(CONFIG_MAPS, config_map("a"))
    server.intercept(fail(ServiceUnavailable("busy"), verb="patch", name="a"))
    with pytest.raises(ServiceUnavailable):
        await server.client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace="n")
    await server.client.patch(CONFIG_MAPS, "a", {"data": {"y": "1"}}, namespace="n")
    server.intercept(lose_answer(verb="create"))
    with pytest.raises(OutcomeUnknown):
        await server.client.create(CONFIG_MAPS, config_map("b"))
    assert await server.client.get(CONFIG_MAPS, "b", "n"), "it was carried out"
    remove = server.intercept(fail(ServiceUnavailable("down"), times=-1))
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            await server.client.get(CONFIG_MAPS, "a", "n")
    remove()
    await server.client.get(CONFIG_MAPS, "a", "n")
    assert [call.verb for call in server.calls][:3] == ["create", "patch", "patch"]


async def test_an_interceptor_may_answer_itself() -> None:
    server = FakeServer()

    async def quota(call: Call, proceed: Any) -> Any:
        if call.verb == "create" and call.resource == CONFIG_MAPS and len(server.calls) > 1:
            raise ApiError("exceeded quota", code=403, reason="Forbidden")
        return await proceed()

    server.intercept(quota)
    await server.client.create(CONFIG_MAPS, config_map("a"))
    with pytest.raises(ApiError, match="exceeded quota"):
        await server.client.create(CONFIG_MAPS, config_map("b"))


@pytest.mark.looptime
async def test_a_controller_runs_on_it_in_virtual_time() -> None:
    """Caches, work queues, back-off, leader election: minutes of it take no time."""
    server = FakeServer(WIDGETS)
    manager = server.manager(
        ManagerOptions(metrics_address="0", health_address="0", election=ElectionConfig("n", "lease", "me"))
    )
    widgets = manager.cache.lister(WIDGETS)

    class Reconciler:
        async def reconcile(self, request: Request) -> Result | None:
            widget = widgets.get(request.key.name, request.key.namespace)
            if widget is None:
                return None
            count = widget.get("status", {}).get("looks", 0) + 1
            patch = {"status": {"looks": count}}
            await manager.client.patch(WIDGETS, "w", patch, namespace="n", subresource="status")
            return Result(requeue_after=60.0)

    manager.add(Controller("widgets", Reconciler(), primary=WIDGETS, predicate=generation_changed))
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    server.intercept(fail(ServiceUnavailable("busy"), verb="patch", resource=WIDGETS, times=3))
    await server.client.create(WIDGETS, obj(WIDGETS, "w", "n"))
    found = await server.client.wait_for(WIDGETS, "w", lambda obj: obj and "status" in obj, "n", timeout=60.0)
    assert found is not None
    server.compact()
    await asyncio.sleep(400.0)
    assert (await server.client.get(WIDGETS, "w", "n"))["status"]["looks"] >= 6
    lease = await server.client.get(LEASES, "lease", "n")
    assert lease["spec"]["holderIdentity"] == "me"
    manager.stop()
    await task
    with pytest.raises(FencedError):
        await manager.client.create(CONFIG_MAPS, config_map("late"))


@pytest.mark.looptime
async def test_delays_and_clocks_are_of_the_loops_time() -> None:
    server, clock = FakeServer(), VirtualClock()
    began, wall = clock.monotonic(), clock.now()
    server.intercept(delay(30.0, verb="create"))
    await server.client.create(CONFIG_MAPS, config_map("a"))
    assert clock.monotonic() - began == pytest.approx(30.0, abs=0.1)
    clock.advance(3600.0)
    assert (clock.now() - wall).total_seconds() == pytest.approx(3630.0, abs=0.1)


# Fixtures


CONFTEST = """
from contextlib import asynccontextmanager
from kaito.runtime import RestConfig
from kaito.runtime.testing import api_server

@asynccontextmanager
async def embedded():
    yield RestConfig(server="http://embedded.invalid")

server = api_server(EMBEDDED, kubeconfig_variable="THEIR_KUBECONFIG")
"""
TEST = """
async def test_it(server):
    assert server.server == "http://EXPECTED.invalid"
"""


@pytest.mark.parametrize(
    ("embedded", "kubeconfig", "outcome"),
    [("embedded", False, "1 passed"), ("None", True, "1 passed"), ("None", False, "1 skipped")],
)
def test_a_fixture_finds_the_api_server(tmp_path: Path, embedded: str, kubeconfig: bool, outcome: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.replace("EMBEDDED", embedded))
    (tmp_path / "test_it.py").write_text(TEST.replace("EXPECTED", "named" if kubeconfig else "embedded"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    config = tmp_path / "config"
    config.write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://named.invalid'}}]\n"
    )
    environ = {"PATH": "/usr/bin:/bin", **({"THEIR_KUBECONFIG": str(config)} if kubeconfig else {})}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert outcome in done.stdout, done.stdout + done.stderr


def test_assets_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no etcd"), envtest(tmp_path):
        pass


async def test_a_manager_is_given_its_connection() -> None:
    server = FakeServer()
    manager = Manager(server.config, rest=server.rest)
    assert manager.rest is server.rest
