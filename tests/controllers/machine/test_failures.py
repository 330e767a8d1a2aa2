"""What the Machine controller does when the cloud refuses, fails or forgets, and what it says about it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from controllers.machine.conftest import World
from kaito.api.resources import MACHINES
from kaito.devcluster.arm import ArmOptions, Fault, Plan
from kaito.devcluster.arm.errors import ArmError
from kaito.runtime import NODES
from support.waiting import eventually

QUOTA = ArmError(400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 6, remaining 0", flat=True)
NOT_ALLOWED = "The VM size of Standard_NC6s_v3 is not allowed in your subscription in location 'eastus'"


async def test_a_refusal_is_told_in_azures_words_and_tried_again(world: World) -> None:
    world.arm.faults.add(Fault(method="PUT", error=QUOTA, count=2))
    async with world.running() as manager:
        await world.make()
        note = await world.told("LaunchFailed")
        assert note == f"{QUOTA.code}: {QUOTA.message}"
        await world.ready()
        text = generate_latest(manager.metrics).decode()
    assert (
        'karpenter_cloudprovider_errors_total{controller="machine",error="QuotaExceeded",method="Create",provider="aks"} 2.0'
        in text
    )
    assert world.count("PUT") == 3
    assert world.pools == [world.name]


async def test_the_condition_keeps_the_failure_until_the_next_try(world: World) -> None:
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    world.arm.faults.add(Fault(method="PUT", error=ArmError(400, "BadRequest", NOT_ALLOWED, flat=True), count=-1))
    async with world.running():
        await world.make()
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
        assert message == f"all requested instance types were unavailable during launch: BadRequest: {NOT_ALLOWED}"
        assert await world.condition("Ready") == ("False", "LaunchFailed", message)
        assert await world.condition("MachineRegistered") == ("False", "MachineNotLaunched", "Machine is not launched")
        # Whatever makes the controller look again does not make it try again.
        await world.client.patch(MACHINES, world.name, {"metadata": {"labels": {"changed": "yes"}}})
        gets = world.count("GET")
        await eventually(lambda: world.count("GET") > gets)
        await world.client.delete(MACHINES, world.name)
        await world.gone()
    assert world.count("PUT") == 1


async def test_long_words_are_cut(world: World) -> None:
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    world.arm.faults.add(Fault(method="PUT", error=ArmError(409, "Strange", "x" * 2000)))
    async with world.running():
        await world.make()
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
    assert (len(message), message[-3:]) == (800, "...")


async def test_a_pool_that_fails_is_replaced(world: World) -> None:
    details = [{"code": "AllocationFailed", "message": "there are none left"}]
    world.arm.faults.plan(Plan(error=ArmError(200, "ReconcileVMSSAgentPoolFailed", "it failed", details=details)))
    async with world.running():
        await world.make()
        note = await world.told("LaunchFailed")
        assert note == (
            "all requested instance types were unavailable during launch: "
            "ReconcileVMSSAgentPoolFailed: it failed; AllocationFailed: there are none left"
        )
        await world.ready()
    assert (world.count("PUT"), world.count("DELETE")) == (2, 1)
    assert world.pools == [world.name]


@pytest.mark.parametrize(
    "error",
    [
        ArmError(429, "TooManyRequests", "slow down", headers={"Retry-After": "0"}),
        ArmError(409, "OperationNotAllowed", "Another operation (Updating) is in progress", flat=True),
        ArmError(503, "ServiceUnavailable", "come back later"),
    ],
)
async def test_what_passes_by_itself_is_no_failure(world: World, error: ArmError) -> None:
    world.settings = replace(world.settings, poll_interval=0.3)
    world.arm.faults.add(Fault(method="PUT", error=error))
    async with world.running():
        await world.make()

        async def waiting() -> bool:
            status, reason, message = await world.condition("MachineLaunched")
            return (status, reason) == ("Unknown", "Launching") and error.message in message

        await eventually(waiting)
        await world.ready()
    assert "LaunchFailed" not in [reason for reason, _ in await world.events()]


async def test_a_missing_cluster_ends_nothing(world: World) -> None:
    missing = ArmError(404, "ResourceNotFound", "the cluster was not found")
    async with world.running():
        await world.make()
        await world.ready()
        fault = world.arm.faults.add(Fault(method="GET", error=missing, count=-1))
        await world.client.delete(MACHINES, world.name)
        await eventually(lambda: fault.hits > 1)
        assert (await world.machine()).metadata.finalizers
        assert "the cluster was not found" in await world.told("TerminationFailed")
        world.arm.faults.clear()
        await world.gone()


async def test_a_machine_without_a_size(world: World) -> None:
    async with world.running():
        await world.make(requirements=[])
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
        assert "machine spec has no requirement for instance type" in message
        await world.client.delete(MACHINES, world.name)
        await world.gone()
    assert world.count("PUT") == 0


async def test_a_machine_whose_name_no_pool_can_have(world: World) -> None:
    world.name = f"{world.name}-toolong"
    async with world.running():
        await world.make()
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
        assert "cannot be the name of an agent pool" in message
        await world.client.delete(MACHINES, world.name)
        await world.gone()


async def test_a_pool_of_others_is_left_alone(world: World) -> None:
    pool = world.arm.add_pool(world.name, {"vmSize": "Standard_D4s_v5"})
    pool.instances = (0,)
    await world.join(pool)
    before = pool.resource()
    async with world.running():
        await world.make()
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
        assert message == f"there is already an instance {world.name}, which belongs to someone else"
        await world.client.delete(MACHINES, world.name)

        async def released() -> bool:
            return not await world.client.list(MACHINES)

        await eventually(released)
    assert pool.resource() == before
    node = await world.node()
    assert not node["spec"].get("unschedulable")
    assert not {"PUT", "DELETE"} & {request.method for request in world.arm.requests}


async def test_a_node_that_never_comes_is_waited_for_only_so_long(world: World) -> None:
    world.settings = replace(world.settings, registration_ttl=1.0)
    world.arm.faults.plan(Plan(nodes=0))
    async with world.running() as manager:
        await world.make()
        message = await world.becomes("MachineRegistered", "False", "NodeNotFound")
        assert message == "Node not registered with cluster"
        note = await world.told("RegistrationTimeout")
        assert "NodeNotFound" in note
        await world.ready()
        text = generate_latest(manager.metrics).decode()
        assert 'karpenter_machines_terminated_total{provisioner="default",reason="liveness"} 1.0' in text
    assert (world.count("PUT"), world.count("DELETE")) == (2, 1)


async def test_a_node_that_vanishes_is_replaced_with_its_pool(world: World) -> None:
    world.settings = replace(world.settings, node_grace=5.0)  # long enough to be seen on a busy machine
    async with world.running():
        await world.make()
        machine = await world.ready()
    name = machine.status.node_name or ""
    # Someone forces it out of the cluster, finalizer and all.
    await world.client.patch(NODES, name, {"metadata": {"finalizers": None}})
    await world.client.delete(NODES, name)
    async with world.running():
        await world.becomes("MachineRegistered", "False", "NodeNotFound")
        assert (await world.condition("Ready"))[0] == "False"
        assert "has gone from the cluster" in (await world.condition("NodeReady"))[2]
        await world.told("NodeUnhealthy")
        await world.ready()
    assert (world.count("PUT"), world.count("DELETE")) == (2, 1)
    assert (await world.machine()).metadata.uid == machine.metadata.uid


class TestStuck:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=3600.0)

    async def test_a_deletion_that_azure_refuses_is_asked_for_again(self, world: World) -> None:
        async with world.running():
            await world.make()
            await eventually(lambda: world.pools == [world.name])
            await world.client.delete(MACHINES, world.name)
            await eventually(lambda: world.count("DELETE") > 1)
            assert (await world.machine()).metadata.finalizers
            world.arm.pools[world.name].become("Succeeded")
            await world.gone()


async def test_a_pool_that_someone_deletes_while_it_is_made_is_made_again(world: World) -> None:
    world.arm.faults.plan(Plan(stuck=True))
    async with world.running():
        await world.make()
        await eventually(lambda: world.pools == [world.name])
        world.arm.drop_pool(world.name)
        await world.ready()
    assert world.count("PUT") == 2


async def test_a_pool_of_others_that_has_just_come_is_left_alone_with_its_nodes(world: World) -> None:
    """The last list of pools knows nothing of it yet."""
    async with world.running():
        await eventually(lambda: world.count("LIST"))
        lists = world.count("LIST")
        pool = world.arm.add_pool(world.name, {"vmSize": "Standard_D4s_v5"})
        pool.instances = (0,)
        await world.join(pool)
        await world.make()

        async def waiting() -> bool:
            return "earlier Node" in (await world.condition("MachineLaunched"))[2] or world.count("LIST") > lists

        await eventually(waiting)
        message = await world.becomes("MachineLaunched", "False", "LaunchFailed")
        assert "there is already an" in message
        await world.client.delete(MACHINES, world.name)

        async def released() -> bool:
            return not await world.client.list(MACHINES)

        await eventually(released)
    assert (await world.node())["metadata"].get("deletionTimestamp") is None
    assert world.pools == [world.name]
