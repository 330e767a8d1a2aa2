"""NodeClaim ``karpenter.sh/v1``: one node that something asked for. Cluster-scoped; the successor of Machine."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kaito.api.machine import QUANTITY, ResourceList, ResourceRequirements
from kaito.api.meta import ConditionStatus, Model, Object, ObjectMeta, field, rule

GROUP = "karpenter.sh"
VERSION = "v1"
KIND = "NodeClaim"

LAUNCHED = "Launched"
REGISTERED = "Registered"
INITIALIZED = "Initialized"
READY = "Ready"

NODE_CLASS_GROUP, NODE_CLASS_KIND = "kaito.sh", "KaitoNodeClass"
"""What ``nodeClassRef`` names in the NodeClaims that are kaito's; there need not be such an object."""

_QUALIFIED = (
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(\/))?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"
)
_DURATION = r"^([0-9]+(s|m|h))+$"
_WELL_KNOWN = (
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/windows-build",
)
_DOMAIN = 'self.find("^([^/]+)")'


def _one_of(names: tuple[str, ...]) -> str:
    return f"self in [{', '.join(repr(name) for name in names)}]"


_KEY_RULES = (
    rule(
        f"{_one_of(_WELL_KNOWN)} || {_DOMAIN}.endsWith('node.kubernetes.io') || "
        f"{_DOMAIN}.endsWith('node-restriction.kubernetes.io') || !{_DOMAIN}.endsWith('kubernetes.io')",
        'label domain "kubernetes.io" is restricted',
    ),
    rule(
        f"{_DOMAIN}.endsWith('kops.k8s.io') || !{_DOMAIN}.endsWith('k8s.io')",
        'label domain "k8s.io" is restricted',
    ),
    rule(
        f"{_one_of(('karpenter.sh/capacity-type', 'karpenter.sh/nodepool'))} || !{_DOMAIN}.endsWith('karpenter.sh')",
        'label domain "karpenter.sh" is restricted',
    ),
    rule("self != 'kubernetes.io/hostname'", 'label "kubernetes.io/hostname" is restricted'),
)
_REQUIREMENT_RULES = (
    rule(
        "self.all(x, x.operator != 'In' || (has(x.values) && x.values.size() != 0))",
        "requirements with operator 'In' must have a value defined",
    ),
    rule(
        "self.all(x, !(x.operator in ['Gt', 'Lt']) || "
        "(has(x.values) && x.values.size() == 1 && int(x.values[0]) >= 0))",
        "requirements operator 'Gt' or 'Lt' must have a single positive integer value",
    ),
    rule(
        "self.all(x, !(x.operator == 'In' && has(x.minValues)) || (has(x.values) && x.values.size() >= x.minValues))",
        "requirements with 'minValues' must have at least that many values specified in the 'values' field",
    ),
)


class NodeClaimTaint(Model):
    key: str = field("Taint key.", required=True, minLength=1, pattern=_QUALIFIED)
    value: str | None = field("Taint value.", pattern=_QUALIFIED)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = field(
        "What becomes of pods that do not tolerate the taint.", required=True
    )
    time_added: str | None = field("When the taint was added; only for NoExecute.", format="date-time")


class NodeClaimRequirement(Model):
    key: str = field("Label key.", required=True, maxLength=316, pattern=_QUALIFIED, rules=_KEY_RULES)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = field(
        "Relation of the label to the values.", required=True
    )
    values: tuple[str, ...] | None = field("Values that the operator compares with.")
    min_values: int | None = field("Least number of different values to choose from.", minimum=1, maximum=50)


class NodeClassReference(Model):
    group: str = field(
        "API group of the node class.",
        required=True,
        pattern="^[^/]*$",
        rules=(rule("self != ''", "group may not be empty"),),
    )
    kind: str = field("Kind of the node class.", required=True, rules=(rule("self != ''", "kind may not be empty"),))
    name: str = field("Name of the node class.", required=True, rules=(rule("self != ''", "name may not be empty"),))


class NodeClaimSpec(Model):
    RULES: ClassVar = (rule("self == oldSelf", "spec is immutable"),)

    taints: tuple[NodeClaimTaint, ...] | None = field("Taints of the node.")
    startup_taints: tuple[NodeClaimTaint, ...] | None = field(
        "Taints that must be gone before the node counts as initialized."
    )
    requirements: tuple[NodeClaimRequirement, ...] | None = field(
        "What the node must be: size, OS, architecture.", required=True, maxItems=100, rules=_REQUIREMENT_RULES
    )
    resources: ResourceRequirements | None = field("What the node must have.")
    node_class_ref: NodeClassReference | None = field("Whose affair the node is.", required=True)
    termination_grace_period: str | None = field(
        "Longest time that draining the node may take before it goes all the same.", pattern=_DURATION
    )
    expire_after: str | None = field(
        "Age at which a node would be replaced; kaito replaces no node for its age.",
        default="720h",
        pattern=r"^(([0-9]+(s|m|h))+|Never)$",
    )


class NodeClaimCondition(Model):
    """A condition whose time moves only with its status."""

    type: str = field("Aspect of the NodeClaim that the condition speaks of.", required=True, maxLength=316)
    status: ConditionStatus = field("Whether the condition holds.", required=True)
    observed_generation: int | None = field(
        "The metadata.generation that the condition was set for.", format="int64", minimum=0
    )
    last_transition_time: str = field("When the status last changed.", default="", required=True, format="date-time")
    reason: str | None = field(
        "One word saying why.", maxLength=1024, pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
    )
    message: str | None = field("What a person should know about it.", maxLength=32768)


class NodeClaimStatus(Model):
    node_name: str | None = field("The Node that the machine became.")
    provider_id: str | None = field("The instance, as the cloud names it.", alias="providerID")
    image_id: str | None = field("Version of the node image.", alias="imageID")
    capacity: ResourceList | None = field("Resources of the node.", values=QUANTITY)
    allocatable: ResourceList | None = field("Resources of the node that pods may use.", values=QUANTITY)
    conditions: tuple[NodeClaimCondition, ...] | None = field("How far the NodeClaim has come.")
    last_pod_event_time: str | None = field("When a pod last came to the node or left it.", format="date-time")


class NodeClaim(Object):
    """A node that is wanted, from the request to the cloud until the Node is ready."""

    RULES: ClassVar = ()

    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = KIND
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: NodeClaimSpec = field("The node that is wanted.", default=NodeClaimSpec(), required=True)
    status: NodeClaimStatus = field("What has become of it.", default=NodeClaimStatus())
