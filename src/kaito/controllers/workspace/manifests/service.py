"""The Services in front of a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.validation.configmaps import SERVER_PORT
from kaito.controllers.workspace.manifests.ownership import controller_reference

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest

TORCH_PORT = 29500
RAY_PORT = 6379


def build_service(workspace: Workspace, *, spread: bool = False) -> Manifest:
    """Ports 80 (the model server) and 29500 (torch), for pods that are not ready yet as well.

    Of a model that is spread over several pods the first one answers.
    """
    balanced = (workspace.metadata.annotation(labels.ENABLE_LOAD_BALANCER) or "").casefold() == "true"
    name = workspace.metadata.name
    selector = {labels.WORKSPACE: name}
    if spread:
        selector["statefulset.kubernetes.io/pod-name"] = f"{name}-0"
    return _service(
        workspace,
        name,
        {
            "type": "LoadBalancer" if balanced else "ClusterIP",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": SERVER_PORT},
                {"name": "torch", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT},
            ],
            "selector": selector,
            "publishNotReadyAddresses": True,
        },
    )


def headless_name(workspace: Workspace) -> str:
    return f"{workspace.metadata.name}-headless"


def build_headless_service(workspace: Workspace) -> Manifest:
    """Names for the pods of a StatefulSet, by which they find each other."""
    return _service(
        workspace,
        headless_name(workspace),
        {
            "clusterIP": "None",
            "ports": [{"name": "torchrun", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT}],
            "selector": {labels.WORKSPACE: workspace.metadata.name},
            "publishNotReadyAddresses": True,
        },
    )


def _service(workspace: Workspace, name: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": workspace.metadata.namespace,
            "labels": {labels.WORKSPACE: workspace.metadata.name},
            "ownerReferences": [controller_reference(workspace)],
        },
        "spec": spec,
    }
