"""The managed cluster itself: it runs, or is stopped, or is on its way from one to the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.devcluster.arm.errors import ArmError

if TYPE_CHECKING:
    from kaito.devcluster.arm.site import Site


@dataclass(slots=True)
class ManagedCluster:
    site: Site
    provisioning: str = "Succeeded"
    power: str = "Running"
    """Running or Stopped."""

    @property
    def settled(self) -> bool:
        return self.provisioning == "Succeeded"

    def resource(self) -> dict[str, Any]:
        site = self.site
        return {
            "id": site.cluster_id,
            "name": site.cluster,
            "type": "Microsoft.ContainerService/ManagedClusters",
            "location": site.location,
            "properties": {
                "provisioningState": self.provisioning,
                "powerState": {"code": self.power},
                "kubernetesVersion": site.kubernetes_version,
                "nodeResourceGroup": site.node_resource_group,
            },
        }

    def check_running(self) -> None:
        """Raises ArmError where no change of pools is taken."""
        if not self.settled:
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"Operation is not allowed: Another operation ({self.provisioning}) is in progress, please wait for it to "
                "finish before starting a new operation. See https://aka.ms/aks-pending-operation for more details",
                flat=True,
            )
        if self.power != "Running":
            raise ArmError(
                409,
                "OperationNotAllowed",
                f"The requested operation is not allowed: managed cluster {self.site.cluster} is in state {self.power}.",
                flat=True,
            )
