"""Node objects of emulated machines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.devcluster.arm import VM_SIZES, Pool, Site, build_node, build_nodes
from kaito.devcluster.arm.pools import requested_properties
from kaito.models import Catalogue

SITE = Site(subscription="sub", resource_group="rg", cluster="aks", location="westus")


def pool(**properties: Any) -> Pool:
    body = {"properties": {"vmSize": "Standard_NC12s_v3", **properties}}
    return Pool(SITE, "ws1", requested_properties(SITE, "ws1", body))


def test_a_node_is_what_aks_would_have_made() -> None:
    made = pool(
        nodeLabels={"kaito.sh/workspace": "w"}, nodeTaints=["sku=gpu:NoSchedule", "a:NoExecute"], osDiskSizeGB=200
    )
    node = build_node(made, 37, datetime(2024, 11, 16, 12, tzinfo=UTC))
    digits = SITE.cluster_number
    assert len(digits) == 8
    assert node["metadata"]["name"] == f"aks-ws1-{digits}-vmss000011"
    assert node["spec"]["providerID"] == (
        "azure:///subscriptions/sub/resourceGroups/MC_rg_aks_westus/providers/Microsoft.Compute/virtualMachineScaleSets/"
        f"aks-ws1-{digits}-vmss/virtualMachines/37"
    )
    assert node["spec"]["taints"] == [
        {"key": "sku", "value": "gpu", "effect": "NoSchedule"},
        {"key": "a", "effect": "NoExecute"},
    ]
    labels = node["metadata"]["labels"]
    assert labels["agentpool"] == labels["kubernetes.azure.com/agentpool"] == "ws1"
    assert labels["node.kubernetes.io/instance-type"] == "Standard_NC12s_v3"
    assert labels["kaito.sh/workspace"] == "w"
    assert labels["kaito.sh/simulated"] == "true"
    assert labels["topology.kubernetes.io/zone"] == "0"
    assert node["status"]["capacity"] == {
        "cpu": "12",
        "memory": "224Gi",
        "pods": "110",
        "ephemeral-storage": "200Gi",
        "nvidia.com/gpu": "2",
    }
    assert node["status"]["allocatable"]["cpu"] == "11860m"
    ready = node["status"]["conditions"][-1]
    assert (ready["type"], ready["status"], ready["lastTransitionTime"]) == ("Ready", "True", "2024-11-16T12:00:00Z")


def test_zones_go_round() -> None:
    made = pool(availabilityZones=["1", "3"], count=3)
    made.instances = (0, 1, 2)
    zones = [node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in build_nodes(made)]
    assert zones == ["westus-1", "westus-3", "westus-1"]


def test_a_size_without_gpus_offers_none() -> None:
    assert "nvidia.com/gpu" not in build_node(pool(vmSize="Standard_D4s_v5"), 0)["status"]["capacity"]


@pytest.mark.parametrize("name", sorted(name for name in VM_SIZES if name.startswith("Standard_N")))
def test_gpu_counts_are_those_of_the_catalogue(name: str) -> None:
    sku = Catalogue.default().sku("azure", name)
    assert sku is not None
    assert VM_SIZES[name].gpus == sku.gpus
