"""VM sizes as the compute provider lists them (``Microsoft.Compute/skus``). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kaito.provisioner.provider import InstanceType

API_VERSION = "2021-07-01"


def instance_types(page: Mapping[str, Any]) -> Iterator[InstanceType]:
    """The sizes of one page that the subscription may use."""
    for sku in page.get("value") or ():
        restricted = {restriction.get("type") for restriction in sku.get("restrictions") or ()}
        if sku.get("resourceType") != "virtualMachines" or "Location" in restricted:
            continue
        offers = {entry["name"]: entry["value"] for entry in sku.get("capabilities") or ()}
        closed = {
            zone
            for restriction in sku.get("restrictions") or ()
            for zone in (restriction.get("restrictionInfo") or {}).get("zones") or ()
        }
        zones = {zone for place in sku.get("locationInfo") or () for zone in place.get("zones") or ()}
        yield InstanceType(
            name=sku["name"],
            cpus=int(offers.get("vCPUs", 0)),
            memory_gib=float(offers.get("MemoryGB", 0)),
            gpus=int(offers.get("GPUs", 0)),
            zones=tuple(sorted(zones - closed)),
        )
