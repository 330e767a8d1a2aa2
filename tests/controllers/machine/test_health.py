"""Sick nodes: Ready says so at once, they are replaced after a grace time, and never too many of them at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import generate_latest

from controllers.machine.conftest import World, machine_manifest
from controllers.machine.test_parts import Provider, at, context, machine
from kaito.api.machine import Machine
from kaito.controllers.machine.breaker import Breaker
from kaito.controllers.machine.claims import MACHINE, Claim
from kaito.controllers.machine.health import look
from kaito.devcluster.arm import Plan
from kaito.devcluster.arm.errors import ArmError
from kaito.runtime import NODES, Lister, Stored
from kaito.runtime.cache.store import Store
from support.waiting import eventually


async def set_ready(world: World, status: str, since: str = "2024-01-01T00:00:00Z", node: str = "") -> None:
    """What the node lifecycle controller would write about the Node."""
    name = node or (await world.node())["metadata"]["name"]
    conditions = [
        {
            "type": "Ready",
            "status": status,
            "reason": "KubeletReady" if status == "True" else "NodeStatusUnknown",
            "message": "" if status == "True" else "Kubelet stopped posting node status.",
            "lastTransitionTime": since,
        }
    ]
    await world.client.patch(NODES, name, {"status": {"conditions": conditions}}, subresource="status")


async def bystanders(world: World, count: int) -> None:
    """Other Nodes of the cluster, which are well."""
    for number in range(count):
        name = f"{world.name}-system-{number}"
        await world.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        world.other_nodes.append(name)
        await set_ready(world, "True", node=name)


async def test_ready_is_not_true_while_the_node_is_not(world: World) -> None:
    world.settings = replace(world.settings, node_grace=3600.0)
    async with world.running():
        await world.make()
        machine = await world.ready()
        await set_ready(world, "Unknown", since="2124-01-01T00:00:00Z")
        words = await world.becomes("Ready", "False", "NodeNotReady")
        name = machine.status.node_name
        assert words == f"Node {name} is not ready: NodeStatusUnknown: Kubelet stopped posting node status."
        assert (await world.condition("MachineInitialized"))[0] == "True"
        assert await world.told("NodeNotReady") == words
        await set_ready(world, "True")
        await world.becomes("Ready", "True")
    assert (world.count("PUT"), world.count("DELETE")) == (1, 0)


async def test_a_node_that_stays_sick_is_replaced(world: World) -> None:
    await bystanders(world, 2)
    async with world.running() as manager:
        await world.make()
        machine = await world.ready()
        await set_ready(world, "Unknown")
        assert "the instance is being replaced" in await world.told("NodeUnhealthy")

        async def replaced() -> bool:
            return world.count("PUT") == 2

        await eventually(replaced)
        again = await world.ready()
        assert again.metadata.uid == machine.metadata.uid
        text = generate_latest(manager.metrics).decode()
    assert 'karpenter_machines_terminated_total{provisioner="default",reason="unhealthy"} 1.0' in text
    assert world.count("DELETE") == 1


async def test_node_repair_can_be_turned_off(world: World) -> None:
    await bystanders(world, 2)
    world.settings = replace(world.settings, node_repair=False)
    async with world.running():
        await world.make()
        await world.ready()
        await set_ready(world, "False")

        async def said() -> bool:
            return (await world.condition("NodeReady"))[2].endswith("not replaced: node repair is turned off")

        await eventually(said)
    assert world.count("DELETE") == 0


async def test_no_node_is_replaced_while_the_api_server_has_lost_sight_of_most(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        await bystanders(world, 2)
        for name in world.other_nodes:
            await set_ready(world, "Unknown", node=name)
        await set_ready(world, "Unknown")

        async def said() -> bool:
            words = (await world.condition("NodeReady"))[2]
            return "not replaced: 3 of 3 Nodes of the cluster are not Ready" in words

        await eventually(said)
        assert world.count("DELETE") == 0


def claims(*conditions: tuple[str, str]) -> list[Claim]:
    made = []
    for number, (launched, ready) in enumerate(conditions):
        manifest = machine_manifest(f"ws{number}")
        manifest["metadata"] |= {"uid": f"uid-{number}"}
        reason = "NodeUnhealthy" if launched == "False" else ""
        manifest["status"] = {
            "nodeName": f"n{number}",
            "conditions": [
                {"type": "MachineLaunched", "status": launched, "reason": reason},
                {"type": "Ready", "status": ready},
            ],
        }
        made.append(Claim(MACHINE, Machine.model_validate(manifest)))
    return made


def nodes(ready: int, sick: int) -> Lister[Any]:
    store: Store[Any] = Store(NODES, on_index_error=lambda error: None)
    for number in range(ready + sick):
        status = "True" if number < ready else "Unknown"
        manifest = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"n{number}", "uid": f"n{number}", "resourceVersion": "1"},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }
        store.upsert(Stored(NODES, NODES.encode(manifest)))
    return Lister(store, lambda: None)


class TestBreaker:
    def test_a_share_at_a_time(self) -> None:
        every = claims(*[("True", "False")] * 10)
        breaker = Breaker(lambda: every, nodes(10, 10), share=0.2)
        assert [breaker.admit(claim) for claim in every[:2]] == ["", ""]
        assert breaker.admit(every[2]) == "2 of 10 nodes are being replaced, and no more than 2 may be at a time"
        # Who was admitted may ask again.
        assert breaker.admit(every[0]) == ""

    def test_one_in_any_case(self) -> None:
        every = claims(("True", "False"), ("True", "True"))
        assert Breaker(lambda: every, nodes(1, 1), share=0.0).admit(every[0]) == ""

    def test_what_a_former_leader_has_begun_counts(self) -> None:
        every = claims(("False", "False"), *[("True", "True")] * 4)
        refusal = Breaker(lambda: every, nodes(3, 2), share=0.2).admit(every[1])
        assert refusal.startswith("1 of 5 nodes are being replaced")

    def test_who_is_ready_again_makes_room(self) -> None:
        every = claims(*[("True", "False")] * 5)
        breaker = Breaker(lambda: every, nodes(3, 2), share=0.2)
        assert breaker.admit(every[0]) == ""
        assert breaker.admit(every[1]) != ""
        every[0] = claims(("True", "True"))[0]
        assert breaker.admit(every[1]) == ""

    @pytest.mark.parametrize(("ready", "sick", "admitted"), [(2, 2, True), (1, 2, False), (0, 1, False)])
    def test_none_while_most_are_out_of_sight(self, ready: int, sick: int, admitted: bool) -> None:
        every = claims(("True", "False"))
        assert (Breaker(lambda: every, nodes(ready, sick), share=1.0).admit(every[0]) == "") is admitted


async def test_drift_is_reported_and_left_alone(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        pool = world.arm.pools[world.name]
        # Someone upgrades the pool's node image.
        pool.properties["nodeImageVersion"] = "AKSUbuntu-2204gen2containerd-202501.01.0"
        pool.become("Succeeded")
    world.settings = replace(world.settings, garbage_interval=0.1)
    async with world.running():

        async def drifted() -> bool:
            status, _, _ = await world.condition("MachineDrifted")
            return status == "True"

        await eventually(drifted)
        await world.told("Drifted")
        assert (await world.condition("Ready"))[0] == "True"
    assert (world.count("PUT"), world.count("DELETE")) == (1, 0)


async def test_a_pool_that_somebody_has_stopped_is_left_alone(world: World) -> None:
    await bystanders(world, 2)
    async with world.running():
        await world.make()
        await world.ready()
        world.arm.pools[world.name].properties["powerState"] = {"code": "Stopped"}
    world.settings = replace(world.settings, garbage_interval=0.1)
    async with world.running():
        lists = world.count("LIST")
        await eventually(lambda: world.count("LIST") > lists)
        await set_ready(world, "Unknown")

        async def said() -> bool:
            return "not replaced: somebody has stopped its instance" in (await world.condition("NodeReady"))[2]

        await eventually(said)
    assert world.count("DELETE") == 0


async def test_a_pool_whose_upgrade_has_failed_goes_on(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        world.arm.pools[world.name].become("Failed", ArmError(200, "UpgradeFailed", "the new image does not start"))
    async with world.running():
        words = await world.becomes("MachineDrifted", "True", "InstanceFailed")
        assert words == "the instance is Failed: UpgradeFailed: the new image does not start"
        assert await world.told("Drifted") == words
        assert (await world.condition("Ready"))[0] == "True"
    assert (world.count("PUT"), world.count("DELETE")) == (1, 0)


async def test_flapping_does_not_restart_the_registration_deadline(world: World) -> None:
    """Nodes that come and go before one registers."""
    world.settings = replace(world.settings, registration_ttl=1.5)
    world.arm.faults.plan(Plan(nodes=2))
    async with world.running():
        await world.make()
        await world.becomes("MachineRegistered", "False", "MultipleNodesFound")
        pool = world.arm.pools[world.name]
        for index in (0, 1):
            await world.client.delete(NODES, pool.node_name(index))
        await world.becomes("MachineRegistered", "False", "NodeNotFound")
        await world.told("RegistrationTimeout")
        await world.ready()
    assert world.count("PUT") == 2


async def test_machines_have_a_heartbeat(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
    async with world.running():

        async def beats() -> str:
            return str((await world.machine()).metadata.annotation("NodeHeartBeatTimeStamp") or "")

        text = await eventually(beats)
    assert text.startswith('"20')
    assert text.endswith('Z"')


@pytest.mark.parametrize(("waited", "due"), [(0, False), (599, False), (600, True)])
async def test_a_vanished_node_is_missed_for_ten_minutes(waited: float, due: bool) -> None:
    conditions = [
        {"type": "MachineLaunched", "status": "True", "lastTransitionTime": "2024-11-16T11:00:00Z"},
        {
            "type": "MachineRegistered",
            "status": "False",
            "reason": "NodeNotFound",
            "lastTransitionTime": "2024-11-16T12:00:00Z",
        },
    ]
    subject = machine(status={"nodeName": "gone", "conditions": conditions})
    trouble = look(await context(subject, Provider(AssertionError()), at(waited)))
    assert trouble is not None
    assert (trouble.reason, trouble.due) == ("NodeNotFound", due)


async def test_one_that_has_just_been_missed_is_missed_from_now_on() -> None:
    conditions = [
        {"type": "MachineLaunched", "status": "True", "lastTransitionTime": "2024-11-16T11:00:00Z"},
        {"type": "MachineRegistered", "status": "True", "lastTransitionTime": "2024-11-16T11:05:00Z"},
    ]
    subject = machine(status={"nodeName": "gone", "conditions": conditions})
    trouble = look(await context(subject, Provider(AssertionError()), at(0)))
    assert trouble is not None
    assert trouble.left.total_seconds() == 600
