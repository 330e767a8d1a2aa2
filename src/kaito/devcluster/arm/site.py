"""Where the emulated cluster lives."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    subscription: str = "00000000-0000-0000-0000-000000000000"
    resource_group: str = "kaito"
    cluster: str = "kaito"
    location: str = "eastus"
    kubernetes_version: str = "1.32.0"

    @property
    def node_resource_group(self) -> str:
        return f"MC_{self.resource_group}_{self.cluster}_{self.location}"

    @property
    def cluster_number(self) -> str:
        """Eight digits that stand in the names of the cluster's machines."""
        text = f"{self.subscription}/{self.resource_group}/{self.cluster}"
        return f"{int(sha256(text.encode()).hexdigest()[:12], 16) % 10**8:08d}"

    @property
    def cluster_id(self) -> str:
        """Resource id of the cluster; Azure writes this ``resourcegroups`` in lower case."""
        return (
            f"/subscriptions/{self.subscription}/resourcegroups/{self.resource_group}"
            f"/providers/Microsoft.ContainerService/managedClusters/{self.cluster}"
        )

    @property
    def pools_id(self) -> str:
        """Resource id of the collection of agent pools."""
        return f"{self.cluster_id}/agentPools"
