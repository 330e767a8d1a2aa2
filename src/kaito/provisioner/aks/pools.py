"""Between instances and agent pools. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.provisioner.aks.classify import AzureError, classify
from kaito.provisioner.errors import InvalidRequest, ProviderError
from kaito.provisioner.provider import Instance, InstanceState

if TYPE_CHECKING:
    from azure.mgmt.containerservice.models import AgentPool

    from kaito.api.machine import Taint
    from kaito.provisioner.provider import InstanceSpec

NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
"""Names of Linux agent pools."""
MIN_OS_DISK_GIB, MAX_OS_DISK_GIB = 30, 2048
ANY_SPOT_PRICE = -1.0
"""Up to the price of an ordinary machine."""
OWNER_TAG = labels.MACHINE_UID.replace("/", "_")
"""Tag of agent pools: the owner's uid. The label of the same meaning can be lost in a change of a pool's labels; a tag may
not contain a slash."""
RESERVED_LABELS = (
    "beta.kubernetes.io/",
    "kubernetes.azure.com/",
    "kubernetes.io/",
    "node.kubernetes.io/",
    "topology.kubernetes.io/",
)
"""Prefixes of labels that AKS or the kubelet give a node themselves, and that AKS takes from nobody else."""
CREATED_FORMAT = "%Y-%m-%dT%H-%M-%SZ"

_STATES = {
    "creating": InstanceState.CREATING,
    "succeeded": InstanceState.RUNNING,
    "deleting": InstanceState.DELETING,
    "failed": InstanceState.FAILED,
    "canceled": InstanceState.FAILED,
}


def agent_pool(spec: InstanceSpec, vm_size: str) -> dict[str, Any]:
    """The body of the request that creates the pool. Raises InvalidRequest for what Azure would refuse anyway."""
    if not NAME.fullmatch(spec.name):
        raise InvalidRequest(
            f"{spec.name!r} cannot be the name of an agent pool: it must be 1 to 12 lower-case letters and digits and "
            "start with a letter"
        )
    if not 0 <= spec.os_disk_gib <= MAX_OS_DISK_GIB:
        raise InvalidRequest(f"an OS disk of {spec.os_disk_gib} GiB is not possible: the most is {MAX_OS_DISK_GIB} GiB")
    return {
        "properties": {
            "count": 1,
            "vmSize": vm_size,
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osDiskSizeGB": max(spec.os_disk_gib, MIN_OS_DISK_GIB) if spec.os_disk_gib else 0,
            **_choices(spec),
            "nodeLabels": {
                **{key: value for key, value in spec.labels.items() if not key.startswith(RESERVED_LABELS)},
                labels.MACHINE_UID: spec.owner,
            },
            "nodeTaints": [_taint(taint) for taint in spec.taints],
            "tags": {**spec.tags, OWNER_TAG: spec.owner},
        }
    }


def _choices(spec: InstanceSpec) -> dict[str, Any]:
    """What is left to AKS where nobody asks for it."""
    chosen: dict[str, Any] = {
        "osSKU": spec.os_sku,
        "osDiskType": spec.os_disk_type,
        "maxPods": spec.max_pods,
        "availabilityZones": list(spec.zones),
    }
    if spec.spot is not None:
        price = spec.spot.max_price
        chosen |= {
            "scaleSetPriority": "Spot",
            "scaleSetEvictionPolicy": spec.spot.eviction_policy,
            "spotMaxPrice": ANY_SPOT_PRICE if price is None else price,
        }
    return {key: value for key, value in chosen.items() if value}


def instance(pool: AgentPool) -> Instance:
    """The pool as an instance."""
    phase: str = pool.provisioning_state or ""
    node_labels: dict[str, str] = pool.node_labels or {}
    tags: dict[str, str] = pool.tags or {}
    state = _STATES.get(phase.lower(), InstanceState.UPDATING)
    return Instance(
        name=pool.name or "",
        state=state,
        phase=phase,
        vm_size=pool.vm_size or "",
        owner=tags.get(OWNER_TAG) or node_labels.get(labels.MACHINE_UID) or "",
        os_sku=pool.os_sku or "",
        image=pool.node_image_version or "",
        stopped=((pool.power_state or {}).get("code") or "").lower() == "stopped",
        created_at=_created(node_labels.get(labels.CREATION_TIMESTAMP)),
        error=_failure(pool, phase) if state is InstanceState.FAILED else None,
        etag=pool.e_tag or "",
    )


def _taint(taint: Taint) -> str:
    return f"{taint.key}={taint.value or ''}:{taint.effect}"


def _created(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text or "", CREATED_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _failure(pool: AgentPool, phase: str) -> ProviderError:
    told = pool.status.provisioning_error if pool.status else None
    if told is None:
        return ProviderError(f"the agent pool is {phase} and Azure does not say why")
    return classify(azure_error(told))


def azure_error(told: Any) -> AzureError:
    """From the SDK's models of an error, which all have ``code``, ``message`` and ``details``."""
    inner = tuple(azure_error(detail) for detail in getattr(told, "details", None) or ())
    return AzureError(getattr(told, "code", None) or "", getattr(told, "message", None) or "", inner)
