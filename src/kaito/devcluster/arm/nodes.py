"""The Node objects that the machines of a pool become. Pure: who writes them is the caller's affair."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaito.devcluster.arm.pools import Pool
    from kaito.devcluster.arm.vm_sizes import VmSize

SIMULATED = "kaito.sh/simulated"
"""Label of objects behind which there is nothing: ``true``."""
UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
"""Taint of Nodes whose machine the cloud's controller has yet to name."""
SPOT_LABEL = "kubernetes.azure.com/scalesetpriority"
SPOT_TAINT = f"{SPOT_LABEL}=spot:NoSchedule"
"""What AKS puts on the nodes of spot pools by itself."""
MAX_PODS = 110
SYSTEM_CPU_MILLIS = 140
SYSTEM_MEMORY_MIB = 1638
"""What AKS keeps of a machine of middle size for itself."""


def build_nodes(pool: Pool, now: datetime | None = None) -> list[dict[str, Any]]:
    """A Node for each machine of the pool."""
    return [build_node(pool, index, now) for index in pool.instances]


def build_node(pool: Pool, index: int, now: datetime | None = None) -> dict[str, Any]:
    """The Node of the machine with that index, ready, as a kubelet and the cloud's controllers would have left it."""
    size = pool.vm_size
    capacity = _capacity(pool, size)
    name = pool.node_name(index)
    zones = pool.properties.get("availabilityZones") or ()
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": _labels(pool, name, zones[index % len(zones)] if zones else "")},
        "spec": {
            "providerID": pool.provider_id(index),
            "taints": [_taint(text) for text in (*pool.node_taints, *((SPOT_TAINT,) if pool.spot else ()))],
        },
        "status": {
            "capacity": capacity,
            "allocatable": capacity
            | {
                "cpu": f"{size.cpu * 1000 - SYSTEM_CPU_MILLIS}m",
                "memory": f"{size.memory_gib * 1024 - SYSTEM_MEMORY_MIB}Mi",
            },
            "conditions": _conditions((now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")),
            "addresses": [{"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": f"v{pool.site.kubernetes_version}",
                "kubeProxyVersion": f"v{pool.site.kubernetes_version}",
                "containerRuntimeVersion": "simulated://0",
                "osImage": "simulated",
                "kernelVersion": "simulated",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        },
    }


def joining(node: dict[str, Any]) -> dict[str, Any]:
    """The Node as the kubelet registers it, before it is Ready and before the cloud's controller has named its machine."""
    early = deepcopy(node)
    del early["spec"]["providerID"]
    early["spec"]["taints"] += [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
        {"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"},
    ]
    ready = early["status"]["conditions"][-1]
    ready |= {"status": "False", "reason": "KubeletNotReady", "message": "container runtime network not ready"}
    return early


def _labels(pool: Pool, name: str, zone: str) -> dict[str, str]:
    size, site = pool.vm_size, pool.site
    labels = {
        "agentpool": pool.name,
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/instance-type": size.name,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.azure.com/agentpool": pool.name,
        "kubernetes.azure.com/cluster": site.node_resource_group,
        "kubernetes.azure.com/mode": pool.properties["mode"].lower(),
        "kubernetes.azure.com/os-sku": pool.properties["osSKU"],
        "kubernetes.azure.com/role": "agent",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": size.name,
        "topology.kubernetes.io/region": site.location,
        # Machines outside of availability zones carry the number of a fault domain.
        "topology.kubernetes.io/zone": f"{site.location}-{zone}" if zone else "0",
        SIMULATED: "true",
    }
    if size.gpus:
        labels["kubernetes.azure.com/accelerator"] = "nvidia"
    if pool.spot:
        labels[SPOT_LABEL] = "spot"
    return {**pool.node_labels, **labels}


def _capacity(pool: Pool, size: VmSize) -> dict[str, str]:
    capacity = {
        "cpu": str(size.cpu),
        "memory": f"{size.memory_gib}Gi",
        "pods": str(pool.properties.get("maxPods") or MAX_PODS),
        "ephemeral-storage": f"{pool.properties['osDiskSizeGB']}Gi",
    }
    return capacity | ({"nvidia.com/gpu": str(size.gpus)} if size.gpus else {})


def _taint(text: str) -> dict[str, str]:
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def _conditions(now: str) -> list[dict[str, str]]:
    times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    calm = {
        "MemoryPressure": "KubeletHasSufficientMemory",
        "DiskPressure": "KubeletHasNoDiskPressure",
        "PIDPressure": "KubeletHasSufficientPID",
    }
    return [
        *({"type": type_, "status": "False", "reason": reason, **times} for type_, reason in calm.items()),
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the kubelet is simulated", **times},
    ]
