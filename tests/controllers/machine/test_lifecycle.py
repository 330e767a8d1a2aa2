"""From a Machine to a ready Node, and to the end of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from controllers.machine.conftest import World
from kaito.api.machine import Machine
from kaito.api.resources import MACHINES
from kaito.api.workspace import Workspace
from kaito.controllers.workspace.manifests.order import build_machine, order_name
from kaito.devcluster.arm import ArmOptions, Plan
from kaito.models import Catalogue
from kaito.runtime import NODES, Manifest, NotFound
from support.waiting import eventually

SAMPLE = Path(__file__).parents[3] / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"


async def test_a_machine_becomes_a_ready_node(world: World) -> None:
    async with world.running() as manager:
        await world.make()
        machine = await world.ready()
        assert {entry.type: entry.status for entry in machine.status.conditions or ()} == {
            "MachineInitialized": "True",
            "MachineLaunched": "True",
            "MachineRegistered": "True",
            "NodeReady": "True",
            "Ready": "True",
        }
        assert machine.metadata.finalizers == ("karpenter.sh/termination",)
        assert machine.metadata.label("node.kubernetes.io/instance-type") == "Standard_NC6s_v3"
        assert machine.metadata.label("karpenter.k8s.azure/zone") == "0"
        node = await world.node()
        assert machine.status.node_name == node["metadata"]["name"]
        assert machine.status.provider_id == node["spec"]["providerID"]
        assert machine.status.capacity == node["status"]["capacity"]
        assert machine.status.allocatable == node["status"]["allocatable"]
        assert node["metadata"]["finalizers"] == ["karpenter.sh/termination"]
        assert node["metadata"]["ownerReferences"] == [
            {"apiVersion": "karpenter.sh/v1alpha5", "kind": "Machine", "name": world.name, "uid": machine.metadata.uid}
        ]
        labels = node["metadata"]["labels"]
        assert labels["karpenter.sh/registered"] == labels["karpenter.sh/initialized"] == "true"
        assert (labels["apps"], labels["kaito.sh/workspace"]) == ("phi-3", "w")
        await world.told("Ready")
        text = generate_latest(manager.metrics).decode()
    assert [reason for reason, _ in await world.events()] == [
        "Launching",
        "Launched",
        "Registered",
        "Initialized",
        "Ready",
    ]
    assert 'karpenter_machines_created_total{provisioner="default",reason="provisioned"} 1.0' in text
    for series in ("launched", "registered", "initialized"):
        assert f'karpenter_machines_{series}_total{{provisioner="default"}} 1.0' in text
    assert (
        'karpenter_cloudprovider_duration_seconds_count{controller="machine",method="Create",provider="aks"} 1.0'
        in text
    )


async def test_the_request_to_azure_for_the_published_example(world: World) -> None:
    sample = yaml.safe_load(SAMPLE.read_text())
    sample["metadata"] |= {"namespace": "default", "uid": "11111111-2222-3333-4444-555555555555"}
    workspace = Workspace.model_validate(sample)
    preset = Catalogue.default().preset("phi-3-mini-4k-instruct")
    assert preset is not None
    world.name = order_name(workspace, 0)
    async with world.running():
        await world.client.create(
            MACHINES, Machine.model_validate(build_machine(workspace, world.name, str(preset.disk)))
        )
        machine = await world.ready()
    (put,) = [request for request in world.arm.requests if request.method == "PUT"]
    created = (machine.metadata.creation_timestamp or "").replace(":", "-")
    assert put.path.endswith(f"/agentPools/{world.name}")
    assert put.headers["If-None-Match"] == "*"
    assert put.body == {
        "properties": {
            "count": 1,
            "vmSize": "Standard_NC6s_v3",
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "osDiskSizeGB": 50,
            "nodeLabels": {
                "apps": "phi-3",
                "karpenter.sh/provisioner-name": "default",
                "kaito.sh/workspace": "workspace-phi-3-mini",
                "kaito.sh/workspacenamespace": "default",
                "kaito.sh/machine-type": "gpu",
                "kaito.sh/creation-timestamp": created,
                "kaito.sh/machine-uid": machine.metadata.uid,
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaito.sh_workspace": "default/workspace-phi-3-mini",
                "kaito.sh_machine-uid": machine.metadata.uid,
            },
        }
    }


async def test_a_ready_machine_is_left_in_peace(world: World) -> None:
    async with world.running():
        await world.make()
        before = await world.ready()
        requests = len(world.arm.requests)
        node = await world.node()
        heartbeat = {
            "status": {
                "conditions": [
                    {**entry, "lastHeartbeatTime": "2030-01-01T00:00:00Z"} for entry in node["status"]["conditions"]
                ]
            }
        }
        await world.client.patch(NODES, node["metadata"]["name"], heartbeat, subresource="status")
        await world.client.patch(
            NODES, node["metadata"]["name"], {"metadata": {"labels": {"karpenter.sh/registered": None}}}
        )

        async def restored() -> bool:
            return (await world.node())["metadata"]["labels"].get("karpenter.sh/registered") == "true"

        await eventually(restored)
        assert len(world.arm.requests) == requests
        assert (await world.machine()).metadata.resource_version == before.metadata.resource_version


async def test_a_deleted_machine_takes_its_pool_and_node_and_nothing_else(world: World) -> None:
    world.arm.add_pool("nodepool1", {"vmSize": "Standard_D4s_v5"})
    async with world.running() as manager:
        await world.make()
        await world.make("other")
        await world.ready()
        await world.client.delete(MACHINES, world.name)
        await world.gone()
        await world.told("Terminated")
        assert "nodepool1" in world.pools
        assert (await world.machine("other")).metadata.deletion_timestamp is None
        text = generate_latest(manager.metrics).decode()
        assert 'karpenter_machines_terminated_total{provisioner="default",reason="deleted"} 1.0' in text
        await world.client.delete(MACHINES, "other")
        await world.gone("other")
    assert world.pools == ["nodepool1"]
    assert [reason for reason, _ in await world.events()][-2:] == ["Terminating", "Terminated"]


class TestSlow:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=0.5, delete_seconds=0.5)

    async def test_progress_is_told_while_the_pool_is_made(self, world: World) -> None:
        async with world.running():
            await world.make()

            async def creating() -> bool:
                return "Creating" in (await world.condition("MachineLaunched"))[2]

            await eventually(creating)
            assert await world.condition("MachineLaunched") == (
                "Unknown",
                "Launching",
                f"instance {world.name} of size Standard_NC6s_v3 is Creating",
            )
            assert await world.condition("MachineRegistered") == (
                "False",
                "MachineNotLaunched",
                "Machine is not launched",
            )
            assert (await world.condition("Ready"))[:2] == ("Unknown", "Launching")
            await world.ready()

    async def test_a_machine_that_is_deleted_while_its_pool_is_made_leaves_none(self, world: World) -> None:
        async with world.running():
            await world.make()
            await eventually(lambda: world.pools == [world.name])
            await world.client.delete(MACHINES, world.name)
            await world.gone()
        assert world.pools == []

    async def test_the_node_is_cordoned_while_its_pool_goes(self, world: World) -> None:
        async with world.running():
            await world.make()
            await world.ready()
            await world.client.delete(MACHINES, world.name)

            async def cordoned() -> bool:
                return bool((await world.node())["spec"].get("unschedulable"))

            await eventually(cordoned)
            assert (await world.machine()).metadata.finalizers
            await world.gone()


async def test_machines_of_others_are_not_touched(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        machine = await world.machine()
        others = machine.model_copy(
            update={
                "metadata": machine.metadata.model_copy(
                    update={
                        "name": f"{world.name}x",
                        "uid": "",
                        "resource_version": "",
                        "labels": {"a": "b"},
                        "finalizers": (),
                    }
                )
            }
        )
        created = await world.client.create(MACHINES, others)
        await world.make("after")

        async def after_is_ready() -> bool:
            return bool((await world.machine("after")).status.node_name)

        await eventually(after_is_ready)
        untouched = await world.machine(f"{world.name}x")
        assert untouched.metadata.resource_version == created.metadata.resource_version
        for name in ("after", f"{world.name}x"):
            await world.client.delete(MACHINES, name)
            await world.gone(name)
    assert f"{world.name}x" not in {request.path.rsplit("/")[-1] for request in world.arm.requests}


async def change_node(world: World, patch: dict[str, Any], subresource: str = "") -> None:
    name = (await world.node())["metadata"]["name"]
    await world.client.patch(NODES, name, patch, subresource=subresource)


async def test_a_node_is_initialized_when_it_is_ready(world: World) -> None:
    def unready(node: Manifest) -> None:
        node["status"]["conditions"][-1]["status"] = "False"
        del node["status"]["allocatable"]["nvidia.com/gpu"]
        node["spec"]["taints"] += [
            {"key": "starting", "value": "up", "effect": "NoExecute"},
            {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
        ]

    world.change_node = unready
    async with world.running():
        await world.make(
            startupTaints=[{"key": "starting", "effect": "NoExecute"}],
            resources={"requests": {"storage": "50Gi", "nvidia.com/gpu": "1", "nothing": "0"}},
        )
        message = await world.becomes("MachineInitialized", "False", "NodeNotReady")
        assert message.endswith("is not ready")
        assert (await world.condition("MachineRegistered"))[0] == "True"
        node = await world.node()
        conditions = [
            {**entry, "status": "True"} if entry["type"] == "Ready" else entry for entry in node["status"]["conditions"]
        ]
        await change_node(world, {"status": {"conditions": conditions}}, "status")
        message = await world.becomes("MachineInitialized", "False", "StartupTaintsExist")
        assert "starting:NoExecute" in message
        await change_node(world, {"spec": {"taints": [node["spec"]["taints"][0], node["spec"]["taints"][2]]}})
        await world.becomes("MachineInitialized", "False", "KnownEphemeralTaintsExist")
        await change_node(world, {"spec": {"taints": [node["spec"]["taints"][0]]}})
        message = await world.becomes("MachineInitialized", "False", "ResourceNotRegistered")
        assert "nvidia.com/gpu" in message
        assert (await world.condition("Ready"))[1] == "ResourceNotRegistered"
        await change_node(world, {"status": {"allocatable": {"nvidia.com/gpu": "1"}}}, "status")
        machine = await world.ready()
        assert (machine.status.allocatable or {})["nvidia.com/gpu"] == "1"


async def test_a_node_without_provider_id_is_waited_for(world: World) -> None:
    world.change_node = lambda node: node["spec"].pop("providerID")
    async with world.running():
        await world.make()

        async def noticed() -> bool:
            return "no provider id" in (await world.condition("MachineRegistered"))[2]

        await eventually(noticed)
        await change_node(world, {"spec": {"providerID": "azure:///subscriptions/x"}})
        assert (await world.ready()).status.provider_id == "azure:///subscriptions/x"


async def test_two_nodes_are_one_too_many(world: World) -> None:
    world.arm.faults.plan(Plan(nodes=2))
    async with world.running():
        await world.make()
        message = await world.becomes("MachineRegistered", "False", "MultipleNodesFound")
        assert "there are 2: aks-" in message
        await world.client.delete(NODES, world.arm.pools[world.name].node_name(1))
        await world.ready()


async def test_a_node_that_joins_beside_a_registered_one_changes_nothing(world: World) -> None:
    async with world.running():
        await world.make()
        machine = await world.ready()
        surge = await world.node()
        surge["metadata"] = {"name": f"{machine.status.node_name}-surge", "labels": surge["metadata"]["labels"]}
        await world.client.create(NODES, surge)
        lost = {"metadata": {"labels": {"karpenter.sh/registered": None}}}
        await world.client.patch(NODES, machine.status.node_name or "", lost)

        async def restored() -> bool:
            node = await world.client.get(NODES, machine.status.node_name or "")
            return node["metadata"]["labels"].get("karpenter.sh/registered") == "true"

        await eventually(restored)
        assert (await world.condition("Ready"))[0] == "True"
        assert (await world.machine()).status.node_name == machine.status.node_name


async def test_who_deletes_the_node_deletes_the_machine(world: World) -> None:
    async with world.running():
        await world.make()
        machine = await world.ready()
        await world.client.delete(NODES, machine.status.node_name or "")
        await world.gone()
        assert machine.status.node_name in await world.told("NodeDeleted")
    assert world.pools == []


async def test_a_finalizer_of_others_on_the_machine_stays(world: World) -> None:
    async with world.running():
        await world.make()
        machine = await world.ready()
        finalizers = [*(machine.metadata.finalizers or ()), "example.com/other"]
        await world.client.patch(MACHINES, world.name, {"metadata": {"finalizers": finalizers}})
        await world.client.delete(MACHINES, world.name)

        async def released() -> bool:
            return (await world.machine()).metadata.finalizers == ("example.com/other",)

        await eventually(released)
        assert world.pools == []
        await world.client.patch(MACHINES, world.name, {"metadata": {"finalizers": None}})
        with pytest.raises(NotFound):
            await world.machine()
