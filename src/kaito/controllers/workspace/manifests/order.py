"""The Machines and NodeClaims of a Workspace."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kaito.api import labels

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest

NODE_POOL = "karpenter.sh/nodepool"


def order_name(workspace: Workspace, index: int) -> str:
    """Name of the Workspace's ``index``-th order: 11 characters, so that an agent pool can bear it too.

    It depends on nothing but the Workspace's uid, so whoever creates an order again finds the one that exists.
    """
    return "ws" + sha256(f"{workspace.metadata.uid}/{index}".encode()).hexdigest()[:9]


def build_machine(workspace: Workspace, name: str, disk: str) -> Manifest:
    """A Machine for one node of the Workspace; ``disk`` is the size of its OS disk, ``0`` for the cloud's default."""
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            "name": name,
            "labels": _labels(workspace, {labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT}),
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": _requirements(
                {
                    labels.INSTANCE_TYPE: workspace.resource.instance_type,
                    labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT,
                    labels.MACHINE_TYPE: "gpu",
                    labels.ARCH: "amd64",
                    labels.OS: "linux",
                }
            ),
            "resources": {"requests": {"storage": disk}},
            "taints": [_TAINT],
        },
    }


def build_node_claim(workspace: Workspace, name: str, disk: str) -> Manifest:
    """A NodeClaim for one node of the Workspace; ``disk`` is the size of its OS disk, ``0`` for the cloud's default."""
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": name,
            "labels": _labels(workspace, {NODE_POOL: "kaito"}),
            "annotations": {"karpenter.sh/do-not-disrupt": "true"},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": _requirements(
                {
                    NODE_POOL: "kaito",
                    labels.INSTANCE_TYPE: workspace.resource.instance_type,
                    labels.OS: "linux",
                }
            ),
            "resources": {"requests": {"storage": disk}},
            "taints": [_TAINT],
        },
    }


_TAINT = {"key": labels.SKU_TAINT_KEY, "value": labels.SKU_TAINT_VALUE, "effect": labels.NO_SCHEDULE}


def _labels(workspace: Workspace, own: dict[str, str]) -> dict[str, str]:
    selected = workspace.resource.label_selector.as_labels() if workspace.resource.label_selector else {}
    # kaito's own labels stand last: they are how the order is found again.
    return {
        **selected,
        **own,
        labels.WORKSPACE: workspace.metadata.name,
        labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
    }


def _requirements(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "operator": "In", "values": [value]} for key, value in values.items()]
