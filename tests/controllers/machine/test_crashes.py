"""The controller is cut off at every point between two steps; the next one ends with exactly one pool, or with none."""

from __future__ import annotations

import asyncio

import pytest

from controllers.machine.conftest import World
from kaito.api.resources import MACHINES
from kaito.devcluster.arm import ArmOptions
from kaito.provisioner import CloudProvider, Instance, InstanceSpec, InstanceType
from kaito.runtime import NODES
from support.waiting import eventually


class Crashing:
    """A provider that stops for good at one point, such as ``before create`` or ``after delete``."""

    def __init__(self, provider: CloudProvider, point: str) -> None:
        self.name = provider.name
        self._provider = provider
        self._point = point
        self.reached = asyncio.Event()

    async def _pause(self, point: str) -> None:
        if point == self._point:
            self.reached.set()
            await asyncio.Event().wait()

    async def create(self, spec: InstanceSpec) -> Instance:
        await self._pause("before create")
        created = await self._provider.create(spec)
        await self._pause("after create")
        return created

    async def get(self, name: str) -> Instance:
        return await self._provider.get(name)

    async def instance_types(self) -> list[InstanceType]:
        return await self._provider.instance_types()

    async def list(self) -> list[Instance]:
        return await self._provider.list()

    async def delete(self, instance: Instance) -> None:
        await self._pause("before delete")
        await self._provider.delete(instance)
        await self._pause("after delete")

    async def aclose(self) -> None:
        await self._provider.aclose()


async def crash_at(world: World, point: str) -> None:
    """Run the controller up to that point and cut it off there."""
    made: list[Crashing] = []

    def wrap(provider: CloudProvider) -> CloudProvider:
        made.append(Crashing(provider, point))
        return made[-1]

    async with world.running(wrap, patience=0.05):
        async with asyncio.timeout(20):
            await made[0].reached.wait()


async def one_ready_pool(world: World) -> None:
    async with world.running():
        machine = await world.ready()
        assert world.arm.pools[world.name].properties["tags"]["kaito.sh_machine-uid"] == machine.metadata.uid
        assert len(await world.nodes()) == 1
    assert world.pools == [world.name]


@pytest.mark.parametrize("point", ["before create", "after create"])
async def test_around_the_request_for_a_pool(world: World, point: str) -> None:
    await world.make()
    await crash_at(world, point)
    assert (await world.condition("MachineLaunched"))[:2] == ("Unknown", "Launching")
    assert (await world.machine()).metadata.finalizers == ("karpenter.sh/termination",)
    assert (len(world.pools), world.count("PUT")) == ((0, 0) if point == "before create" else (1, 1))
    await one_ready_pool(world)
    assert world.count("PUT") == 1


class TestSlow:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=0.3, delete_seconds=0.3)

    async def test_while_the_pool_is_made(self, world: World) -> None:
        async with world.running(patience=0.05):
            await world.make()
            await eventually(lambda: world.pools == [world.name])
        await one_ready_pool(world)
        assert world.count("PUT") == 1

    async def test_before_the_node_is_registered(self, world: World) -> None:
        async with world.running(patience=0.05):
            await world.make()
            await eventually(lambda: world.pools == [world.name])
        # The pool is done and its Node is there while nobody looks.
        await eventually(world.nodes)
        await one_ready_pool(world)

    async def test_while_the_pool_is_deleted(self, world: World) -> None:
        async with world.running(patience=0.05):
            await world.make()
            await world.ready()
            await world.client.delete(MACHINES, world.name)
            await eventually(lambda: world.arm.pools[world.name].state == "Deleting")

        async def pool_gone() -> bool:
            return not world.pools

        await eventually(pool_gone)
        node = await world.node()
        assert node["metadata"]["deletionTimestamp"]
        async with world.running():
            await world.gone()


@pytest.mark.parametrize("point", ["before delete", "after delete"])
async def test_around_the_deletion_of_the_pool(world: World, point: str) -> None:
    async with world.running():
        await world.make()
        await world.ready()
    await world.client.delete(MACHINES, world.name)
    await crash_at(world, point)
    async with world.running():
        await world.gone()
    assert world.pools == []


async def test_a_machine_that_is_deleted_while_nobody_looks_leaves_no_pool(world: World) -> None:
    await world.make()
    await crash_at(world, "after create")
    await world.client.delete(MACHINES, world.name)
    async with world.running():
        await world.gone()
    assert world.pools == []


async def test_a_node_that_is_deleted_while_nobody_looks_takes_its_machine(world: World) -> None:
    async with world.running():
        await world.make()
        machine = await world.ready()
    await world.client.delete(NODES, machine.status.node_name or "")
    async with world.running():
        await world.gone()


async def test_two_controllers_by_mistake_still_make_one_pool(world: World) -> None:
    async with world.running(), world.running():
        await world.make()
        await world.ready()
        await world.client.delete(MACHINES, world.name)
        await world.gone()
    assert world.pools == []
