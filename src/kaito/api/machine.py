"""Machine ``karpenter.sh/v1alpha5``: one node that a Workspace asked for. Cluster-scoped."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from kaito.api.meta import ConditionStatus, Model, Object, ObjectMeta, field
from kaito.api.quantity import PATTERN, Quantity

GROUP = "karpenter.sh"
VERSION = "v1alpha5"
KIND = "Machine"

LAUNCHED = "MachineLaunched"
REGISTERED = "MachineRegistered"
INITIALIZED = "MachineInitialized"
READY = "Ready"

INSTANCE_TYPES_UNAVAILABLE = "all requested instance types were unavailable during launch"
"""Message of a False MachineLaunched when no size could be had at all."""

ResourceList = dict[str, int | str]
QUANTITY: dict[str, Any] = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": PATTERN,
    "x-kubernetes-int-or-string": True,
}


class Taint(Model):
    key: str = field("Taint key.", required=True)
    value: str | None = field("Taint value.")
    effect: str = field("NoSchedule, PreferNoSchedule or NoExecute.", required=True)
    time_added: str | None = field("When the taint was added; only for NoExecute.", format="date-time")


class NodeSelectorRequirement(Model):
    key: str = field("Label key.", required=True)
    operator: str = field("In, NotIn, Exists, DoesNotExist, Gt or Lt.", required=True)
    values: tuple[str, ...] | None = field("Values that the operator compares with.")


class ResourceRequirements(Model):
    requests: ResourceList | None = field(
        "Least resources that the node must have; storage is the size of its OS disk.", values=QUANTITY
    )

    def request(self, name: str) -> Quantity | None:
        """The request for ``name``. Raises ValueError if it is not a quantity."""
        value = (self.requests or {}).get(name)
        return None if value is None else Quantity.parse(value)


class KubeletConfiguration(Model):
    cluster_dns: tuple[str, ...] | None = field("IP addresses of the cluster's DNS servers.", alias="clusterDNS")
    container_runtime: str | None = field("Container runtime of the node.")
    max_pods: int | None = field("Most pods on the node.", format="int32", minimum=0)
    pods_per_core: int | None = field("Most pods for each core.", format="int32", minimum=0)
    system_reserved: ResourceList | None = field("Resources kept for the system.", values=QUANTITY)
    kube_reserved: ResourceList | None = field("Resources kept for Kubernetes.", values=QUANTITY)
    eviction_hard: dict[str, str] | None = field("Thresholds of immediate eviction.")
    eviction_soft: dict[str, str] | None = field("Thresholds of eviction after a grace period.")
    eviction_soft_grace_period: dict[str, str] | None = field("Grace periods of the soft thresholds.")
    eviction_max_pod_grace_period: int | None = field("Longest grace period at a soft eviction, s.", format="int32")
    image_gc_high_threshold_percent: int | None = field(
        "Disk use at which unused images are removed, %.",
        alias="imageGCHighThresholdPercent",
        format="int32",
        minimum=0,
        maximum=100,
    )
    image_gc_low_threshold_percent: int | None = field(
        "Disk use down to which unused images are removed, %.",
        alias="imageGCLowThresholdPercent",
        format="int32",
        minimum=0,
        maximum=100,
    )
    cpu_cfs_quota: bool | None = field("Whether CPU limits are enforced by CFS quota.", alias="cpuCFSQuota")


class MachineTemplateRef(Model):
    api_version: str | None = field("API version of the template.")
    kind: str | None = field("Kind of the template.")
    name: str = field("Name of the template; kaito puts the Machine's own name.", required=True)


class MachineSpec(Model):
    taints: tuple[Taint, ...] | None = field("Taints of the node.")
    startup_taints: tuple[Taint, ...] | None = field("Taints that must be gone before the node counts as initialized.")
    requirements: tuple[NodeSelectorRequirement, ...] | None = field("What the node must be: size, OS, architecture.")
    resources: ResourceRequirements | None = field("What the node must have.")
    kubelet: KubeletConfiguration | None = field("Settings of the kubelet.")
    machine_template_ref: MachineTemplateRef | None = field("Template of the node.")

    def requirement(self, key: str) -> tuple[str, ...]:
        """The values of the ``In`` requirement on ``key``, in order; empty if there is none."""
        return next(
            (term.values or () for term in self.requirements or () if term.key == key and term.operator == "In"), ()
        )


class MachineCondition(Model):
    """A knative condition: no observedGeneration, and the time moves with every change."""

    type: str = field("Aspect of the Machine that the condition speaks of.", required=True)
    status: ConditionStatus = field("True, False or Unknown.", required=True, enum=None)
    severity: str | None = field("Empty for an error, Info for what does not bear on Ready.")
    reason: str | None = field("One word saying why.")
    message: str | None = field("What a person should know about it.")
    last_transition_time: str | None = field("When the condition last changed.")


class MachineStatus(Model):
    node_name: str | None = field("The Node that the machine became.")
    provider_id: str | None = field("The instance, as the cloud names it.", alias="providerID")
    capacity: ResourceList | None = field("Resources of the node.", values=QUANTITY)
    allocatable: ResourceList | None = field("Resources of the node that pods may use.", values=QUANTITY)
    conditions: tuple[MachineCondition, ...] | None = field("How far the machine has come.")


class Machine(Object):
    """A node that is wanted, from the request to the cloud until the Node is ready."""

    RULES: ClassVar = ()

    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = KIND
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: MachineSpec = field("The node that is wanted.", default=MachineSpec())
    status: MachineStatus = field("What has become of it.", default=MachineStatus())
