"""Agent pools: what a request may ask for, and how a pool shows itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.devcluster.arm.errors import ArmError, bad_request
from kaito.devcluster.arm.vm_sizes import VM_SIZES, VmSize

if TYPE_CHECKING:
    from kaito.devcluster.arm.site import Site

MAX_COUNT = 1000
OS_DISK_GIB = range(30, 2049)
"""Sizes of an OS disk; 0 asks for the default."""
DEFAULT_OS_DISK_GIB = 128

_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"(?:[a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_TAINT = re.compile(r"[^=:]+(?:=[^=:]*)?:(?:NoSchedule|PreferNoSchedule|NoExecute)")
_TAG_NAME = re.compile(r"[^<>%&\\?/]{1,512}")
_RESERVED_LABELS = ("kubernetes.azure.com/", "kubernetes.io/", "node.kubernetes.io/")


@dataclass(slots=True)
class Pool:
    """One agent pool. ``properties`` are those of the request with Azure's defaults."""

    site: Site
    name: str
    properties: dict[str, Any]
    state: str = "Creating"
    """``provisioningState``."""
    etag: str = ""
    error: ArmError | None = None
    instances: tuple[int, ...] = field(default=())
    """Indexes of the machines that have joined the cluster."""

    def __post_init__(self) -> None:
        self.become(self.state)

    def become(self, state: str, error: ArmError | None = None) -> None:
        self.state, self.error = state, error
        self.etag = str(uuid.uuid4())

    @property
    def vm_size(self) -> VmSize:
        return VM_SIZES[self.properties["vmSize"]]

    @property
    def node_labels(self) -> Mapping[str, str]:
        return self.properties.get("nodeLabels") or {}

    @property
    def node_taints(self) -> tuple[str, ...]:
        """As ``key=value:Effect``."""
        return tuple(self.properties.get("nodeTaints") or ())

    @property
    def spot(self) -> bool:
        return bool(self.properties.get("scaleSetPriority") == "Spot")

    @property
    def count(self) -> int:
        return int(self.properties["count"])

    @property
    def scale_set(self) -> str:
        return f"aks-{self.name}-{self.site.cluster_number}-vmss"

    def node_name(self, index: int) -> str:
        """Name of the Node of the machine with that index: the scale set's, and the index to the base of 36."""
        return f"{self.scale_set}{_base36(index):0>6}"

    def provider_id(self, index: int) -> str:
        return (
            f"azure:///subscriptions/{self.site.subscription}/resourceGroups/{self.site.node_resource_group}"
            f"/providers/Microsoft.Compute/virtualMachineScaleSets/{self.scale_set}/virtualMachines/{index}"
        )

    def resource(self) -> dict[str, Any]:
        """As it goes over the wire."""
        properties = {**self.properties, "provisioningState": self.state, "eTag": self.etag}
        if self.error is not None:
            properties["status"] = {"provisioningError": self.error.detail()}
        return {
            "id": f"{self.site.pools_id}/{self.name}",
            "name": self.name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": properties,
        }


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text or "0"


def requested_properties(site: Site, name: str, body: Any) -> dict[str, Any]:
    """The properties that a request for the pool ``name`` asks for, with Azure's defaults. Raises ArmError."""
    if not _NAME.fullmatch(name):
        raise bad_request(
            "InvalidParameter",
            f"The value of parameter agentPool.name is invalid. Agent pool name {name} must match ^[a-z][a-z0-9]{{0,11}}$.",
        )
    asked = body.get("properties") if isinstance(body, dict) else None
    if not isinstance(asked, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content was invalid: it has no properties.")
    properties = {
        "count": 1,
        "mode": "User",
        "type": "VirtualMachineScaleSets",
        "osType": "Linux",
        "osSKU": "Ubuntu",
        "osDiskType": "Managed",
        "maxPods": 110,
        "orchestratorVersion": site.kubernetes_version,
        "currentOrchestratorVersion": site.kubernetes_version,
        "nodeImageVersion": "AKSUbuntu-2204gen2containerd-202411.12.0",
        "powerState": {"code": "Running"},
        **{key: value for key, value in asked.items() if value is not None},
    }
    _check(site, properties)
    properties["osDiskSizeGB"] = properties.get("osDiskSizeGB") or DEFAULT_OS_DISK_GIB
    return properties


def _check(site: Site, properties: Mapping[str, Any]) -> None:
    count, disk, size = properties["count"], properties.get("osDiskSizeGB") or 0, properties.get("vmSize")
    if not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
        raise _invalid("count", f"{count!r} is not between 0 and {MAX_COUNT}")
    if not size:
        raise _invalid("vmSize", "it is required")
    if size not in VM_SIZES:
        raise bad_request(
            "BadRequest",
            f"The VM size of {size} is not allowed in your subscription in location '{site.location}'. "
            f"The available VM sizes are {', '.join(sorted(VM_SIZES))}",
        )
    if not isinstance(disk, int) or (disk != 0 and disk not in OS_DISK_GIB):
        raise _invalid("osDiskSizeGB", f"{disk!r} is not 0, nor between {OS_DISK_GIB.start} and {OS_DISK_GIB[-1]}")
    for key, allowed in (("osType", ("Linux", "Windows")), ("type", ("VirtualMachineScaleSets",))):
        if properties[key] not in allowed:
            raise _invalid(key, f"{properties[key]!r} is not one of {', '.join(allowed)}")
    for key, value in (properties.get("nodeLabels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise _invalid("nodeLabels", f"{key}={value} is not a label")
        if key.startswith(_RESERVED_LABELS):
            raise _invalid("nodeLabels", f"{key} has a prefix that is reserved")
    for taint in properties.get("nodeTaints") or ():
        if not isinstance(taint, str) or not _TAINT.fullmatch(taint):
            raise _invalid("nodeTaints", f"{taint!r} is not key=value:Effect")
    for key in properties.get("tags") or {}:
        if not _TAG_NAME.fullmatch(key):
            raise bad_request(
                "InvalidTagNameCharacters", f"The tag name '{key}' has characters that are not supported."
            )


def _invalid(parameter: str, why: str) -> ArmError:
    return bad_request("InvalidParameter", f"The value of parameter agentPool.{parameter} is invalid: {why}.")
