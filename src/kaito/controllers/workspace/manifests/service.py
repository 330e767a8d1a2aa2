"""The Service in front of an inference workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.controllers.workspace.manifests.ownership import controller_reference

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest

SERVER_PORT = 5000
TORCH_PORT = 29500


def build_service(workspace: Workspace) -> Manifest:
    """Ports 80 (the model server) and 29500 (torch), for pods that are not ready yet as well."""
    balanced = (workspace.metadata.annotation(labels.ENABLE_LOAD_BALANCER) or "").lower() == "true"
    name = workspace.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": workspace.metadata.namespace,
            "ownerReferences": [controller_reference(workspace)],
        },
        "spec": {
            "type": "LoadBalancer" if balanced else "ClusterIP",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": SERVER_PORT},
                {"name": "torch", "protocol": "TCP", "port": TORCH_PORT, "targetPort": TORCH_PORT},
            ],
            "selector": {labels.WORKSPACE: name},
            "publishNotReadyAddresses": True,
        },
    }
