"""On which nodes pods fit, and in which words they are told that they do not."""

from __future__ import annotations

from typing import Any

import pytest

from kaito.devcluster.controllers.placement import NodeView, misfits, pod_requests, selects, tolerates
from kaito.devcluster.controllers.scheduler import Bind, Unschedulable, decide, missing_claim
from kaito.runtime import Manifest


def node(
    name: str, labels: dict[str, str] | None = None, taints: Any = (), cordoned: bool = False, **free: str
) -> Manifest:
    spec: Manifest = {"taints": list(taints)}
    if cordoned:
        spec["unschedulable"] = True
    capacity = {
        "cpu": "4",
        "memory": "8Gi",
        "pods": "10",
        **{key.replace("_", "."): value for key, value in free.items()},
    }
    if "gpu" in free:
        capacity["nvidia.com/gpu"] = capacity.pop("gpu")
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {"allocatable": capacity},
    }


def pod(labels: dict[str, str] | None = None, requests: dict[str, str] | None = None, **spec: Any) -> Manifest:
    container = {"name": "c", "resources": {"requests": requests or {}}}
    return {
        "metadata": {"name": "p", "namespace": "default", "labels": labels or {}},
        "spec": {"containers": [container], **spec},
    }


def views(*nodes: Manifest, on: dict[str, list[Manifest]] | None = None) -> list[NodeView]:
    return [NodeView.of(item, (on or {}).get(item["metadata"]["name"], [])) for item in nodes]


def refused(asking: Manifest, *nodes: Manifest, on: dict[str, list[Manifest]] | None = None) -> str:
    decision = decide(asking, views(*nodes, on=on))
    assert isinstance(decision, Unschedulable), decision
    return decision.message.partition(" preemption: ")[0]


def test_messages_are_those_of_kube_scheduler() -> None:
    gpu = {"nvidia.com/gpu": "1"}
    assert decide(pod(), []) == Unschedulable("no nodes available to schedule pods")
    assert refused(pod(requests=gpu), node("a"), node("b"), node("c", labels={"x": "y"})) == (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    assert refused(pod(requests=gpu, nodeSelector={"x": "y"}), node("a"), node("b"), node("c", labels={"x": "y"})) == (
        "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) didn't match Pod's node affinity/selector."
    )
    tainted = node("a", taints=[{"key": "sku", "value": "gpu", "effect": "NoSchedule"}])
    assert refused(pod(), tainted, node("b", cordoned=True)) == (
        "0/2 nodes are available: 1 node(s) had untolerated taint {sku: gpu}, 1 node(s) were unschedulable."
    )
    full = {"a": [pod(requests={"cpu": "3"})]}
    assert refused(pod(requests={"cpu": "1500m", "memory": "9Gi"}), node("a"), on=full) == (
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
    )
    crowded = {"a": [pod() for _ in range(10)]}
    assert refused(pod(), node("a"), on=crowded) == "0/1 nodes are available: 1 Too many pods."


def test_the_least_loaded_of_the_preferred_nodes_wins() -> None:
    assert decide(pod(), views(node("a"), node("b"), on={"a": [pod()]})) == Bind("b")
    term = {"matchExpressions": [{"key": "x", "operator": "Exists"}]}
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": term}]}
    asking = pod(affinity={"nodeAffinity": preferred})
    assert decide(asking, views(node("a", labels={"x": ""}), node("b"), on={"a": [pod()]})) == Bind("a")
    avoided = node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}])
    assert decide(pod(), views(avoided, node("b"), on={"b": [pod()]})) == Bind("b")
    assert decide(pod(), views(avoided)) == Bind("a")


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["3"]}]}, True),
        ({"matchExpressions": [{"key": "size", "operator": "DoesNotExist"}]}, False),
        ({}, False),
    ],
)
def test_required_affinity(term: Manifest, fits: bool) -> None:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    spec = pod(affinity={"nodeAffinity": required})["spec"]
    assert selects(spec, node("a", labels={"size": "4"})) is fits


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "sku", "operator": "Exists"}, True),
        ({"key": "sku", "value": "gpu"}, True),
        ({"key": "sku", "value": "cpu"}, False),
        ({"key": "sku", "value": "gpu", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: Manifest, fits: bool) -> None:
    assert tolerates([toleration], {"key": "sku", "value": "gpu", "effect": "NoSchedule"}) is fits


def test_init_containers_count_where_they_ask_for_more() -> None:
    asking = pod(requests={"cpu": "1"})
    asking["spec"]["initContainers"] = [
        {"resources": {"requests": {"cpu": "2", "memory": "1Gi"}}},
        {"restartPolicy": "Always", "resources": {"limits": {"cpu": "500m"}}},
    ]
    assert {name: str(amount) for name, amount in pod_requests(asking).items()} == {"cpu": "2500m", "memory": "1Gi"}


def test_anti_affinity_keeps_pods_apart() -> None:
    rule = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}
    apart = pod({"app": "x"}, affinity={"podAntiAffinity": required})
    cluster = views(node("a"), node("b"), on={"a": [apart]})
    assert misfits(apart, cluster[0], cluster) == ["node(s) didn't match pod anti-affinity rules"]
    assert decide(apart, cluster) == Bind("b")
    together = pod({"app": "x"}, affinity={"podAffinity": required})
    assert decide(together, cluster) == Bind("a")
    alone = views(node("a"))
    assert decide(together, alone) == Bind("a")
    assert refused(pod(affinity={"podAffinity": required}), node("a")).endswith(
        "1 node(s) didn't match pod affinity rules."
    )


def test_a_missing_claim() -> None:
    asking = pod(volumes=[{"name": "e", "emptyDir": {}}, {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}])
    assert missing_claim(asking, []) == "data"
    assert missing_claim(asking, ["data"]) == ""
