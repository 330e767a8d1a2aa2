"""Where pods go, and what they say when there is no place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from devcluster.living import Living, is_ready, template
from kaito.runtime import EVENTS, LEASES, NODES, PODS, Manifest, NotFound


def node(name: str, **status: str) -> Manifest:
    capacity = {"cpu": "8", "memory": "32Gi", "pods": "110", **status}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kaito.sh/simulated": "true", "kubernetes.io/hostname": name}},
        "spec": {"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]},
        "status": {"capacity": capacity},
    }


def pod(name: str, gpus: int = 0, **spec: Any) -> Manifest:
    body = {**template(name, **spec)}
    body["metadata"]["name"] = name
    if gpus:
        body["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
        body["spec"]["tolerations"] = [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
    return body


@pytest.fixture
async def gpu_node(living: Living) -> AsyncIterator[str]:
    name = f"gpu-{living.namespace}"
    await living.client.create(NODES, node(name, **{"nvidia.com/gpu": "1"}))
    yield name
    try:
        await living.client.delete(NODES, name)
    except NotFound:
        return


def unschedulable(obj: Manifest) -> str:
    for item in obj["status"].get("conditions", ()):
        if item["type"] == "PodScheduled" and item["status"] == "False":
            assert item["reason"] == "Unschedulable"
            return str(item["message"])
    return ""


def waits_for(text: str) -> Callable[[Manifest], bool]:
    """A pod may wait for something else before that, such as its node to become ready."""
    return lambda obj: text in unschedulable(obj)


async def test_a_gpu_pod_waits_for_a_gpu_node_and_others_stay_away_from_it(living: Living) -> None:
    await living.create(PODS, pod("model", gpus=1))
    waiting = await living.until(PODS, "model", waits_for("Insufficient nvidia.com/gpu"))
    assert "nodes are available: " in unschedulable(waiting)

    async def told() -> bool:
        return any(event["reason"] == "FailedScheduling" for event in await living.list(EVENTS))

    await living.until_true(told)
    name = f"gpu-{living.namespace}"
    await living.client.create(NODES, node(name, **{"nvidia.com/gpu": "1"}))
    try:
        placed = await living.until(PODS, "model", is_ready)
        assert placed["spec"]["nodeName"] == name
        await living.create(PODS, pod("plain"))
        assert (await living.until(PODS, "plain", is_ready))["spec"]["nodeName"] != name
        await living.create(PODS, pod("second", gpus=1))
        await living.until(PODS, "second", waits_for("Insufficient nvidia.com/gpu"))
        await living.delete(PODS, "model")
        assert (await living.until(PODS, "second", is_ready))["spec"]["nodeName"] == name
    finally:
        await living.client.delete(NODES, name)
    # A node that goes takes its pods with it.
    await living.gone(PODS, "second")


async def test_one_gpu_is_given_to_one_of_many(living: Living, gpu_node: str) -> None:
    names = [f"model-{number}" for number in range(6)]
    await asyncio.gather(*(living.create(PODS, pod(name, gpus=1)) for name in names))

    async def settled() -> bool:
        return all(item["status"].get("conditions") for item in await living.list(PODS))

    await living.until_true(settled)
    placed = [item for item in await living.list(PODS) if item["spec"].get("nodeName")]
    assert len(placed) == 1


async def test_a_simulated_node_becomes_ready_and_keeps_a_lease(living: Living, gpu_node: str) -> None:
    async def ready() -> bool:
        held = await living.client.get(NODES, gpu_node)
        return is_ready(held) and "InternalIP" in {item["type"] for item in held["status"].get("addresses", ())}

    await living.until_true(ready)

    async def leased() -> bool:
        leases = await living.client.list(LEASES, "kube-node-lease")
        return any(item["metadata"]["name"] == gpu_node for item in leases)

    await living.until_true(leased)
    await living.client.delete(NODES, gpu_node)

    async def released() -> bool:
        return not await leased()

    await living.until_true(released)


async def test_cordon_keeps_new_pods_away(living: Living, gpu_node: str) -> None:
    await living.client.patch(NODES, gpu_node, {"spec": {"unschedulable": True}})

    async def tainted() -> bool:
        taints = (await living.client.get(NODES, gpu_node))["spec"].get("taints", ())
        return "node.kubernetes.io/unschedulable" in {taint["key"] for taint in taints}

    await living.until_true(tainted)
    await living.create(PODS, pod("model", gpus=1))
    await living.until(PODS, "model", waits_for("node(s) were unschedulable"))
    await living.client.patch(NODES, gpu_node, {"spec": {"unschedulable": None}})
    await living.until(PODS, "model", is_ready)


async def test_a_pod_waits_for_its_neighbour(living: Living) -> None:
    term = {"labelSelector": {"matchLabels": {"app": "first"}}, "topologyKey": "kubernetes.io/hostname"}
    together = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    await living.create(PODS, pod("second", affinity=together))
    assert "pod affinity rules" in unschedulable(await living.until(PODS, "second", unschedulable))
    await living.create(PODS, pod("first"))
    await living.until(PODS, "second", is_ready)


async def test_a_missing_claim_is_named(living: Living) -> None:
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "nowhere"}}
    await living.create(PODS, pod("needy", volumes=[volume]))
    await living.until(PODS, "needy", waits_for('persistentvolumeclaim "nowhere" not found'))
