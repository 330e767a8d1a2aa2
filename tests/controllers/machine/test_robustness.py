"""One bad thing does not spoil the rest: objects that cannot be read, defects of a provider, a stop in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from controllers.machine.conftest import World
from kaito.devcluster.arm import build_nodes, joining
from kaito.provisioner import CloudProvider, Instance, InstanceSpec, InstanceType
from kaito.runtime import CUSTOM_RESOURCE_DEFINITIONS, NODES, Conflict, manifest_resource
from support.waiting import eventually


class Wrapped:
    """A provider that does as the one within."""

    def __init__(self, provider: CloudProvider) -> None:
        self.name = provider.name
        self.inner = provider

    async def create(self, spec: InstanceSpec) -> Instance:
        return await self.inner.create(spec)

    async def get(self, name: str) -> Instance:
        return await self.inner.get(name)

    async def instance_types(self) -> list[InstanceType]:
        return await self.inner.instance_types()

    async def list(self) -> list[Instance]:
        return await self.inner.list()

    async def delete(self, instance: Instance) -> None:
        await self.inner.delete(instance)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_a_provider_is_closed_after_the_last_reconcile(world: World) -> None:
    """The one that is being finished when the controller is told to stop makes two calls."""
    order: list[str] = []
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Wrapped):
        async def delete(self, instance: Instance) -> None:
            asked.set()
            await go_on.wait()
            await self.inner.delete(instance)
            order.append("deleted")

        async def aclose(self) -> None:
            order.append("closed")
            await self.inner.aclose()

    async with world.running():
        await world.make()
        await world.ready()
    await world.delete()
    async with world.running(Slow) as manager:
        await asked.wait()
        manager.stop()
        await asyncio.sleep(0)
        go_on.set()
    assert order == ["deleted", "closed"]
    async with world.running():
        await world.gone()


async def test_a_defect_of_a_provider_ends_nothing(world: World) -> None:
    """Such as an SDK that cannot read a field of a new API version."""

    class Broken(Wrapped):
        lists = 0

        async def list(self) -> list[Instance]:
            type(self).lists += 1
            if self.lists < 4:
                raise KeyError("provisioningState")
            return await self.inner.list()

    world.settings = replace(world.settings, garbage_interval=0.05)
    async with world.running(Broken):
        await world.make()
        await world.ready()


async def test_one_piece_of_garbage_that_cannot_be_removed_keeps_no_other(world: World) -> None:
    class Picky(Wrapped):
        async def delete(self, instance: Instance) -> None:
            if instance.name == "bad":
                raise TypeError("a defect met with this instance only")
            await self.inner.delete(instance)

    for name in ("bad", "good"):
        world.arm.add_pool(name, {"vmSize": "Standard_NC6s_v3", "tags": {"kaito.sh_machine-uid": f"uid-{name}"}})
    world.settings = replace(world.settings, garbage_interval=0.05)
    async with world.running(Picky):
        await eventually(lambda: world.pools == ["bad"])
    world.arm.drop_pool("bad")


async def test_a_node_that_joins_step_by_step(world: World) -> None:
    """First without a provider id, not ready and tainted; then as the cloud's controller and the kubelet leave it."""
    early_ones: list[Any] = []
    join = world.join

    async def step(pool: Any) -> None:
        (node,) = build_nodes(pool)
        early_ones.append((node, await world.client.create(NODES, joining(node))))

    world.join = step  # type: ignore[method-assign]  # the world plays the cloud
    async with world.running():
        await world.make()
        await world.becomes("MachineRegistered", "False", "NodeNotFound")
        ((node, _),) = early_ones
        name = node["metadata"]["name"]
        await world.client.patch(NODES, name, {"spec": {"providerID": node["spec"]["providerID"]}})
        await world.becomes("MachineInitialized", "False", "NodeNotReady")
        assert (await world.condition("Ready"))[:2] == ("False", "NodeNotReady")
        await world.client.patch(NODES, name, {"status": node["status"]}, subresource="status")
        await world.becomes("MachineInitialized", "False", "KnownEphemeralTaintsExist")

        async def untainted() -> bool:
            with suppress(Conflict):
                await world.client.patch(NODES, name, {"spec": {"taints": node["spec"]["taints"]}})
                return True
            return False

        await eventually(untainted)
        await world.ready()
    world.join = join  # type: ignore[method-assign]
    assert world.count("PUT") == 1


@pytest.mark.parametrize("provider_id", ["AZURE:///Subscriptions/SUB/resourcegroups/mc_RG/x", "aws:///eu/i-1", "odd"])
async def test_how_a_cloud_writes_the_ids_of_its_machines_is_its_affair(world: World, provider_id: str) -> None:
    """Nodes are known by the label of their pool, which nobody but the cloud can set."""
    world.change_node = lambda node: node["spec"].update(providerID=provider_id)
    async with world.running():
        await world.make()
        assert (await world.ready()).status.provider_id == provider_id
        await world.delete()
        await world.gone()


@pytest.fixture
async def any_machine_goes(world: World) -> AsyncIterator[None]:
    """As long as the test runs, the API server checks no Machine."""

    async def change(schema: dict[str, Any]) -> dict[str, Any]:
        definition = await world.client.get(CUSTOM_RESOURCE_DEFINITIONS, "machines.karpenter.sh")
        version = definition["spec"]["versions"][0]["schema"]
        before: dict[str, Any] = version["openAPIV3Schema"]
        version["openAPIV3Schema"] = schema
        await world.client.update(CUSTOM_RESOURCE_DEFINITIONS, definition)
        return before

    before = await change({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
    yield
    await change(before)


async def test_a_claim_that_cannot_be_read_goes_all_the_same_and_stands_in_nobodys_way(
    world: World, any_machine_goes: None
) -> None:
    """Such as one from before a rule of its schema."""
    raw = manifest_resource("karpenter.sh", "v1alpha5", "Machine", "machines", namespaced=False)
    async with world.running():
        await world.make()
        await world.ready()

    async def spoiled() -> bool:
        await world.client.patch(raw, world.name, {"spec": {"taints": "none, thank you"}})
        return bool((await world.client.get(raw, world.name))["spec"]["taints"] == "none, thank you")

    await eventually(spoiled)
    world.settings = replace(world.settings, garbage_interval=0.1)
    async with world.running():
        await world.make("other")

        async def other_is_ready() -> bool:
            return bool((await world.machine("other")).status.node_name)

        await eventually(other_is_ready)
        await world.client.delete(raw, world.name)

        async def gone() -> bool:
            return world.name not in {each["metadata"]["name"] for each in await world.client.list(raw)}

        await eventually(gone)
        assert world.pools == ["other"]
        await world.delete("other")
        await world.gone("other")
