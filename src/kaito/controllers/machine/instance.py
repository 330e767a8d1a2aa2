"""The instance that a claim asks for. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, cast

from kaito.api import labels
from kaito.provisioner import InstanceSpec, InvalidRequest, Spot
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from collections.abc import Collection

    from kaito.controllers.machine.claims import Claim

GPU_SIZES = "Standard_N"
"""What the names of VM sizes with GPUs contain."""
WORKSPACE_TAG = "kaito.sh_workspace"
"""Tag of instances: ``namespace/name`` of the Workspace."""

_OWN_LABELS = (labels.INSTANCE_TYPE, labels.AZURE_ZONE, labels.ZONE, labels.CAPACITY_TYPE)
"""Labels of a claim that tell what its node was like, not what it should be."""
_FAMILIES = {"ubuntu": "Ubuntu", "azurelinux": "AzureLinux"}
_DEFAULT_FAMILY = "Ubuntu"
_DISK_TYPES = {"managed": "Managed", "ephemeral": "Ephemeral"}
_EVICTION_POLICIES = {"delete": "Delete", "deallocate": "Deallocate"}


def instance_spec(claim: Claim, *, unavailable: Collection[str] = ()) -> InstanceSpec:
    """Raises InvalidRequest for a claim that no instance can satisfy. Sizes that are ``unavailable`` are left out, unless
    all are."""
    metadata = claim.metadata
    sizes = claim.requirement(labels.INSTANCE_TYPE)
    if not sizes:
        raise InvalidRequest(
            f"{claim.kind.name} spec has no requirement for instance type: add {labels.INSTANCE_TYPE} In [size]"
        )
    sizes = tuple(size for size in sizes if size not in unavailable) or sizes
    own = {key: value for key, value in (metadata.labels or {}).items() if key not in _OWN_LABELS}
    node_labels = dict([claim.kind.pool_label]) | own
    node_labels[labels.MACHINE_TYPE] = "gpu" if GPU_SIZES in sizes[0] else "cpu"
    if metadata.creation_timestamp:
        created = parse_time(metadata.creation_timestamp)
        node_labels[labels.CREATION_TIMESTAMP] = created.strftime("%Y-%m-%dT%H-%M-%SZ")
    return InstanceSpec(
        name=metadata.name,
        owner=metadata.uid,
        vm_sizes=sizes,
        labels=node_labels,
        taints=claim.taints,
        os_disk_gib=_os_disk_gib(claim),
        os_disk_type=_chosen(claim, labels.OS_DISK_TYPE, _DISK_TYPES) or "",
        os_sku=os_sku(claim),
        max_pods=_max_pods(claim),
        zones=tuple(zone.rpartition("-")[2] for zone in claim.requirement(labels.ZONE)),
        spot=_spot(claim),
        tags=_tags(claim),
    )


def os_sku(claim: Claim) -> str:
    """Family of the node image: that of the annotation, if it is one."""
    asked = claim.metadata.annotation(labels.NODE_IMAGE_FAMILY) or ""
    return _FAMILIES.get(asked.lower(), _DEFAULT_FAMILY)


def misunderstood(claim: Claim) -> str:
    """What the claim asks for and nobody knows, so that it gets the default instead; empty if nothing."""
    asked = claim.metadata.annotation(labels.NODE_IMAGE_FAMILY)
    if not asked or asked.lower() in _FAMILIES:
        return ""
    known = " and ".join(_FAMILIES.values())
    return f"{labels.NODE_IMAGE_FAMILY} is {asked!r}, but there are only {known}: the node gets {_DEFAULT_FAMILY}"


def _os_disk_gib(claim: Claim) -> int:
    try:
        storage = claim.resources.request("storage")
    except ValueError as error:
        raise InvalidRequest(f"spec.resources.requests.storage: {error}") from error
    if storage is None:
        return 0
    size = storage.ceil_gib()
    if size < 0:
        raise InvalidRequest(f"storage request of {claim.kind.name}({claim.name}) should be more than 0")
    return size


def _max_pods(claim: Claim) -> int:
    text = claim.metadata.annotation(labels.MAX_PODS)
    if text is None:
        return claim.max_pods or 0
    if not text.isdigit() or not int(text):
        raise InvalidRequest(f"the annotation {labels.MAX_PODS} is {text!r}; it must be a number of pods above 0")
    return int(text)


def _spot(claim: Claim) -> Spot | None:
    asked = claim.requirement(labels.CAPACITY_TYPE)
    if labels.SPOT not in asked or labels.ON_DEMAND in asked:
        return None
    policy = _chosen(claim, labels.SPOT_EVICTION_POLICY, _EVICTION_POLICIES) or "Delete"
    text = claim.metadata.annotation(labels.SPOT_MAX_PRICE)
    try:
        price = None if text is None else float(text)
    except ValueError:
        price = math.nan
    if price is not None and not 0 < price < math.inf:
        raise InvalidRequest(f"the annotation {labels.SPOT_MAX_PRICE} is {text!r}; it must be US dollars an hour")
    return Spot(cast("Literal['Delete', 'Deallocate']", policy), price)


def _chosen(claim: Claim, annotation: str, choices: dict[str, str]) -> str | None:
    asked = claim.metadata.annotation(annotation)
    if asked is None:
        return None
    if asked.lower() not in choices:
        raise InvalidRequest(f"the annotation {annotation} is {asked!r}; it must be {' or '.join(choices.values())}")
    return choices[asked.lower()]


def _tags(claim: Claim) -> dict[str, str]:
    tags: dict[str, str] = {}
    workspace = claim.metadata.label(labels.WORKSPACE)
    namespace = claim.metadata.label(labels.WORKSPACE_NAMESPACE)
    if workspace and namespace:
        tags[WORKSPACE_TAG] = f"{namespace}/{workspace}"
    for part in filter(None, (claim.metadata.annotation(labels.TAGS) or "").split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise InvalidRequest(f"the annotation {labels.TAGS} has {part!r}; it must be name=value,name=value")
        tags[name.strip()] = value.strip()
    return tags
