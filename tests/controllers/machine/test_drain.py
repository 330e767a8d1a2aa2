"""A node is emptied before its machine goes: politely, in order, and not for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.machine.conftest import World
from controllers.machine.test_robustness import Wrapped
from kaito.api.resources import MACHINES, NODE_CLAIMS
from kaito.controllers.machine.drain import Plan, plan
from kaito.provisioner import Instance
from kaito.runtime import NODES, PODS, Manifest, NotFound, Resource, manifest_resource
from support.waiting import eventually

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=10)
BUDGETS = manifest_resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")


def pod(name: str = "p", **changes: Any) -> Manifest:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", **changes.pop("metadata", {})}
    return {
        "metadata": metadata,
        "spec": changes.pop("spec", {}),
        "status": changes.pop("status", {"phase": "Running"}),
    }


def critical(name: str) -> Manifest:
    return pod(name, spec={"priorityClassName": "system-node-critical"})


@pytest.mark.parametrize(
    "left_alone",
    [
        pod(status={"phase": "Succeeded"}),
        pod(status={"phase": "Failed"}),
        pod(metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}),
        pod(metadata={"ownerReferences": [{"kind": "Node", "name": "n"}]}),
        pod(metadata={"ownerReferences": [{"kind": "DaemonSet", "name": "d"}]}),
        pod(spec={"tolerations": [{"operator": "Exists"}]}),
        pod(spec={"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}),
        # More than a minute after the end of its grace period, its kubelet is dead.
        pod(metadata={"deletionTimestamp": "2024-11-16T11:58:59Z"}),
    ],
)
def test_pods_that_need_not_go(left_alone: Manifest) -> None:
    assert plan([left_alone], NOON, LATER) == Plan(done=True)


def test_pods_that_must_go() -> None:
    tolerant = pod("tolerant", spec={"tolerations": [{"key": "sku", "operator": "Exists"}]})
    going = pod("going", metadata={"deletionTimestamp": "2024-11-16T11:59:30Z"})
    assert plan([tolerant, going], NOON, LATER) == Plan(
        evict=(tolerant,), waiting=(("default/going", "is terminating"),)
    )


def test_what_matters_to_the_cluster_goes_last() -> None:
    assert plan([critical("c"), pod()], NOON, LATER).evict == (pod(),)
    assert plan([critical("c")], NOON, LATER).evict == (critical("c"),)


@pytest.mark.parametrize("name", ["karpenter.sh/do-not-disrupt", "karpenter.sh/do-not-evict"])
def test_pods_that_are_not_to_be_disturbed_are_waited_for(name: str) -> None:
    undisturbed = pod(metadata={"annotations": {name: "true"}})
    assert plan([undisturbed], NOON, LATER) == Plan(waiting=(("default/p", f"has the annotation {name}"),))


def test_grace_periods_end_with_the_time_for_draining() -> None:
    undisturbed = pod(metadata={"annotations": {"karpenter.sh/do-not-disrupt": "true"}})
    long = pod("long", spec={"terminationGracePeriodSeconds": 120})
    now = LATER - timedelta(seconds=60)
    assert plan([long, undisturbed], now, LATER) == Plan(
        force=(long,), waiting=(("default/p", "has the annotation karpenter.sh/do-not-disrupt"),)
    )
    assert plan([long, undisturbed], LATER - timedelta(seconds=30), LATER).force == (long, undisturbed)
    assert plan([long, undisturbed], LATER, LATER).done


@asynccontextmanager
async def budget(world: World, pod: str) -> AsyncIterator[Manifest]:
    """One that allows no disruption of that pod."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": pod, "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"test": pod}}},
    }
    made = await world.client.create(BUDGETS, body)
    try:
        yield made
    finally:
        with suppress(NotFound):
            await world.client.delete(BUDGETS, pod, "default")


@pytest.mark.parametrize("resource", [MACHINES, NODE_CLAIMS], ids=["machine", "nodeclaim"])
async def test_a_node_is_emptied_before_its_machine_goes(world: World, resource: Resource[Any]) -> None:
    world.resource = resource
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
        await world.pod("quick", node, terminationGracePeriodSeconds=0)
        guarded = await world.pod("guarded", node, terminationGracePeriodSeconds=0)
        async with budget(world, guarded):
            await world.delete()
            words = await world.becomes("Drained", "False", "EvictionBlocked")
            assert f"default/{guarded} is not evicted: Cannot evict pod as it would violate" in words
            assert "disruption budget" in words
            assert (await world.condition("Ready"))[:2] == ("False", "Terminating")
            assert (await world.condition("InstanceTerminating"))[:2] == ("False", "NodeNotDrained")

            async def only_the_guarded() -> bool:
                return await world.pods() == {"guarded"}

            await eventually(only_the_guarded)
            assert (await world.node())["spec"]["unschedulable"]
            assert await world.told("FailedDraining")
            assert world.count("DELETE") == 0
        await world.gone()
    assert await world.pods() == set()


async def test_the_time_for_draining_is_limited(world: World) -> None:
    world.settings = replace(world.settings, drain_timeout=1.0)
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
        await world.pod("stubborn", node, metadata={"annotations": {"karpenter.sh/do-not-disrupt": "true"}})
        await world.delete()
        await world.gone()
    # It was asked to end while there was still time.
    assert await world.pods() == set()


async def test_a_node_claim_names_its_own_limit(world: World) -> None:
    world.resource = NODE_CLAIMS
    async with world.running():
        await world.make(terminationGracePeriod="1s")
        node = (await world.ready()).status.node_name
        await world.pod("stubborn", node, metadata={"annotations": {"karpenter.sh/do-not-disrupt": "true"}})
        await world.delete()
        await world.gone()


async def test_somebody_can_call_an_end_to_draining(world: World) -> None:
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
        await world.pod("stubborn", node, metadata={"annotations": {"karpenter.sh/do-not-disrupt": "true"}})
        await world.delete()
        words = await world.becomes("Drained", "False", "EvictionBlocked")
        assert "has the annotation karpenter.sh/do-not-disrupt" in words
        over = {"metadata": {"annotations": {"karpenter.sh/nodeclaim-termination-timestamp": "2024-01-01T00:00:00Z"}}}
        await world.client.patch(MACHINES, world.name, over)
        await world.gone()


async def test_a_node_whose_machine_is_gone_is_not_drained(world: World) -> None:
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
        guarded = await world.pod("guarded", node)
        async with budget(world, guarded):
            world.arm.drop_pool(world.name)
            await world.client.delete(NODES, node)
            await world.gone()
        assert (await world.client.get(PODS, guarded, "default"))["metadata"].get("deletionTimestamp") is None


async def test_a_list_that_leaves_the_pool_out_ends_no_pod(world: World) -> None:
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
    hidden = world.arm.pools[world.name]
    guarded = await world.pod("guarded", node, terminationGracePeriodSeconds=0)

    class Forgetful(Wrapped):
        async def list(self) -> list[Instance]:
            return [instance for instance in await self.inner.list() if instance.name != world.name]

    async with budget(world, guarded), world.running(Forgetful):
        await world.delete()
        await world.becomes("Drained", "False", "EvictionBlocked")
        assert hidden.state == "Succeeded"
        assert world.count("DELETE") == 0
    async with world.running():
        await world.gone()
