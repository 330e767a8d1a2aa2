"""What nobody holds is removed once it has been seen twice; what is not certain is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from controllers.machine.conftest import World, machine_manifest
from kaito.api.defaulting import read_workspace
from kaito.api.machine import Machine
from kaito.api.resources import MACHINES, NODE_CLAIMS, WORKSPACES
from kaito.controllers.machine.claims import MACHINE, Claim
from kaito.controllers.machine.cloud import Cloud
from kaito.controllers.machine.garbage import NOTHING, Garbage, GarbageCollector, find_garbage
from kaito.controllers.machine.metrics import ClaimMetrics
from kaito.devcluster.arm import ArmOptions, Fault, build_node
from kaito.devcluster.arm.errors import ArmError
from kaito.provisioner import Instance, InstanceState, load_provider
from kaito.runtime import NODES, SINGLETON, EventRecorder, Lister, ObjectMeta, Request, Stored, SystemClock
from kaito.runtime.cache.store import Store
from kaito.runtime.manager.recorder import EventWriter
from support.waiting import eventually

SAMPLE = Path(__file__).parents[3] / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"
NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)
GRACE = timedelta(seconds=30)


def instance(owner: str = "uid-1", **changes: Any) -> Instance:
    made = Instance("ws1", InstanceState.RUNNING, "Succeeded", "Standard_NC6s_v3", owner, created_at=NOON - 2 * GRACE)
    return replace(made, **changes)


def machine(uid: str = "uid-1", *, launched: str = "True", **metadata: Any) -> Machine:
    manifest = machine_manifest("ws1")
    manifest["metadata"] |= {"uid": uid, **metadata}
    manifest["status"] = {"conditions": [{"type": "MachineLaunched", "status": launched}]}
    return Machine.model_validate(manifest)


def node(pool: str = "ws1", **metadata: Any) -> Stored[Any]:
    manifest = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "n",
            "uid": "node-1",
            "labels": {"kubernetes.azure.com/agentpool": pool, "kaito.sh/workspace": "w"},
            "finalizers": ["karpenter.sh/termination"],
            **metadata,
        },
    }
    return Stored(NODES, NODES.encode(manifest))


def found(
    instances: list[Instance],
    machines: list[Machine],
    nodes: list[Stored[Any]],
    workspaces: dict[tuple[str, str], str] | None = None,
) -> Garbage:
    held = [ObjectMeta(name=each.metadata.name, uid=each.metadata.uid) for each in machines]
    claims = [Claim(MACHINE, each) for each in machines]
    return find_garbage(instances, held, claims, nodes, workspaces, NOON, GRACE)


@pytest.mark.parametrize(
    ("instances", "machines", "nodes"),
    [
        ([instance()], [machine()], [node()]),
        ([instance()], [machine(launched="Unknown")], []),
        ([], [machine(launched="Unknown")], []),
        ([], [machine(deletionTimestamp="2024-11-16T12:00:00Z")], [node()]),
        ([instance(created_at=NOON)], [], []),
        ([instance(state=InstanceState.DELETING)], [], [node()]),
        ([], [], [node(labels={"kaito.sh/workspace": "w"})]),
        ([], [], [node(finalizers=[])]),
        ([], [], [node(labels={"kubernetes.azure.com/agentpool": "ws1"})]),
    ],
)
def test_what_is_not_garbage(instances: list[Instance], machines: list[Machine], nodes: list[Stored[Any]]) -> None:
    assert found(instances, machines, nodes) == NOTHING


def test_what_is_garbage() -> None:
    assert list(found([instance()], [], []).instances) == ["uid-1"]
    assert list(found([instance(created_at=None)], [], []).instances) == ["uid-1"]
    assert list(found([], [machine()], []).claims) == ["uid-1"]
    assert list(found([], [], [node()]).nodes) == ["node-1"]


def test_a_machine_of_the_same_name_does_not_hold_the_instance_of_another() -> None:
    certain = found([instance("uid-old")], [machine("uid-new")], [])
    assert (list(certain.instances), list(certain.claims)) == (["uid-old"], ["uid-new"])


def test_only_what_was_seen_before_is_certain() -> None:
    seen = found([instance()], [], [node()])
    assert seen.confirmed(NOTHING) == NOTHING
    assert seen.confirmed(seen) == seen


def test_a_machine_whose_workspace_is_gone() -> None:
    seen = {"kaito.sh/workspace-uid": "w-1"}
    old = machine(creationTimestamp="2024-11-16T11:00:00Z", annotations=seen)
    assert list(found([instance()], [old], [], {("default", "other"): "o-1"}).orphans) == ["uid-1"]
    assert found([instance()], [old], [], {("default", "w"): "w-2"}) == NOTHING
    # Labels alone may name a Workspace that never was.
    unseen = machine(creationTimestamp="2024-11-16T11:00:00Z")
    assert found([instance()], [unseen], [], {}) == NOTHING
    ((marked, uid),) = found([instance()], [unseen], [], {("default", "w"): "w-1"}).unmarked
    assert (marked.name, uid) == ("ws1", "w-1")
    # Where Workspaces are not known, another operator asks for the nodes.
    assert found([instance()], [old], [], None) == NOTHING
    for young_or_free in (
        machine(annotations=seen, creationTimestamp="2024-11-16T12:00:00Z"),
        machine(annotations=seen, creationTimestamp="2024-11-16T11:00:00Z", labels={"kaito.sh/ragengine": "r"}),
        machine(annotations=seen, creationTimestamp="2024-11-16T11:00:00Z", deletionTimestamp="2024-11-16T11:30:00Z"),
    ):
        assert found([instance()], [young_or_free], [], {}) == NOTHING


async def test_garbage_is_seen_twice_in_a_row_before_it_is_removed(world: World) -> None:
    orphan = {"vmSize": "Standard_NC6s_v3", "tags": {"kaito.sh_machine-uid": "uid-1"}}
    world.arm.add_pool(world.name, orphan)
    nothing: Lister[Any] = Lister(Store(NODES, on_index_error=lambda error: None), lambda: None)
    provider = load_provider("aks", world.environ())
    recorder = EventRecorder(EventWriter(world.client, SystemClock(), "test"), "test")
    cloud = Cloud(provider, lambda name: None, interval=1.0, idle_interval=1.0)
    metrics = ClaimMetrics(CollectorRegistry())
    listers = {MACHINE: nothing}
    settings = world.settings
    collector = GarbageCollector(world.client, listers, nothing, cloud, recorder, SystemClock(), settings, metrics)
    round_ = Request(SINGLETON)
    try:
        await collector.reconcile(round_)
        world.arm.faults.add(Fault(method="LIST", error=ArmError(503, "ServiceUnavailable", "later")))
        await collector.reconcile(round_)
        await collector.reconcile(round_)
        assert world.count("DELETE") == 0
        await collector.reconcile(round_)
        assert world.count("DELETE") == 1
    finally:
        await provider.aclose()


@asynccontextmanager
async def collecting(world: World) -> AsyncIterator[None]:
    world.settings = replace(world.settings, garbage_interval=0.05)
    async with world.running():
        yield


async def test_a_pool_without_a_machine_is_deleted_with_its_node(world: World) -> None:
    world.arm.add_pool("nodepool1", {"vmSize": "Standard_D4s_v5"})
    async with world.running():
        await world.make()
        await world.ready()
    # Someone takes the finalizer off a Machine and deletes it.
    await world.client.delete(MACHINES, world.name)
    await world.client.patch(MACHINES, world.name, {"metadata": {"finalizers": None}})
    async with collecting(world):
        await eventually(lambda: world.pools == ["nodepool1"])

        async def released() -> bool:
            return not await world.nodes()

        await eventually(released)


async def test_a_machine_whose_pool_has_vanished_is_deleted(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
    pool = world.arm.drop_pool(world.name)
    await world.client.patch(NODES, pool.node_name(0), {"metadata": {"finalizers": None}})
    await world.leave(pool)
    async with collecting(world):
        await world.gone()
        await world.told("InstanceGone")


async def test_an_orphaned_node_is_released(world: World) -> None:
    pool = world.arm.add_pool(world.name, {"vmSize": "Standard_NC6s_v3", "nodeLabels": {"kaito.sh/workspace": "w"}})
    orphan = build_node(pool, 0)
    orphan["metadata"]["finalizers"] = ["karpenter.sh/termination"]
    world.arm.drop_pool(world.name)
    await world.client.create(NODES, orphan)
    async with collecting(world):

        async def released() -> bool:
            return not await world.nodes()

        await eventually(released)


async def test_nothing_is_removed_on_what_a_failing_cloud_says(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
    for error in (ArmError(503, "ServiceUnavailable", "later"), ArmError(404, "ResourceNotFound", "no cluster")):
        fault = world.arm.faults.add(Fault(method="LIST", error=error, count=4))
        async with collecting(world):
            await eventually(lambda fault=fault: fault.hits == 4)
    assert (await world.condition("Ready"))[0] == "True"
    assert world.count("DELETE") == 0


async def test_a_list_that_leaves_a_pool_out_deletes_no_machine(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
    pool = world.arm.pools[world.name]
    # Its marks are gone, so it is not listed as kaito's; but it is there.
    pool.properties |= {"tags": {}, "nodeLabels": {}}
    async with collecting(world):
        lists = world.count("LIST")
        await eventually(lambda: world.count("LIST") > lists + 5)
    assert (await world.machine()).metadata.deletion_timestamp is None
    assert world.count("DELETE") == 0


async def test_pools_of_a_kind_that_another_process_serves_are_no_garbage(world: World) -> None:
    world.resource = NODE_CLAIMS
    async with world.running():
        await world.make()
        await world.ready()
    world.settings = replace(world.settings, kinds=(MACHINE,))
    async with collecting(world):
        lists = world.count("LIST")
        await eventually(lambda: world.count("LIST") > lists + 5)
    assert world.pools == [world.name]
    assert (await world.condition("Ready"))[0] == "True"


class TestSlow:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=0.05, delete_seconds=0.5)

    async def test_a_machine_waits_for_the_pool_of_its_predecessor_to_go(self, world: World) -> None:
        async with world.running():
            await world.make()
            await world.ready()
            await world.delete()
            await eventually(lambda: world.arm.pools[world.name].state == "Deleting")
            # Somebody does not wait for that.
            await world.client.patch(MACHINES, world.name, {"metadata": {"finalizers": None}})
            await world.make()

            async def waiting() -> bool:
                return "waiting for an earlier instance" in (await world.condition("MachineLaunched"))[2]

            await eventually(waiting)
            await world.ready()
        assert (world.count("PUT"), world.count("DELETE")) == (2, 1)
        assert "LaunchFailed" not in [reason for reason, _ in await world.events()]


async def test_a_machine_goes_when_its_workspace_has_gone(world: World) -> None:
    sample = yaml.safe_load(SAMPLE.read_text())
    sample["metadata"] |= {"name": f"of-{world.name}", "namespace": "default"}
    await world.client.create(WORKSPACES, read_workspace(sample), namespace="default")
    labels = {"kaito.sh/workspace": f"of-{world.name}", "kaito.sh/workspacenamespace": "default"}
    async with collecting(world):
        await world.make(metadata={"labels": labels})
        await world.ready()

        async def known() -> bool:
            return bool((await world.machine()).metadata.annotation("kaito.sh/workspace-uid"))

        await eventually(known)
        await world.client.delete(WORKSPACES, f"of-{world.name}", "default")
        await world.told("WorkspaceGone")
        await world.gone()
    assert world.pools == []
