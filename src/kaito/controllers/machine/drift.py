"""Where an instance is no longer what its claim asks for. It is reported, and left as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.controllers.machine.claims import DRIFTED
from kaito.controllers.machine.instance import os_sku
from kaito.controllers.machine.steps import cut
from kaito.controllers.pipeline import Finding
from kaito.provisioner import InstanceState

if TYPE_CHECKING:
    from kaito.controllers.machine.claims import Claim
    from kaito.provisioner import Instance


def find_drift(claim: Claim, instance: Instance) -> Finding | None:
    if instance.state is InstanceState.FAILED:
        # A change of it has failed since; what runs on it is not disturbed for that.
        why = f": {instance.error}" if instance.error is not None else ""
        return Finding(DRIFTED, "True", "InstanceFailed", cut(f"the instance is {instance.phase}{why}"))
    sizes = claim.requirement(labels.INSTANCE_TYPE)
    if sizes and instance.vm_size.lower() not in (size.lower() for size in sizes):
        return _drifted("InstanceTypeDrifted", "size", instance.vm_size, " or ".join(sizes))
    family = os_sku(claim)
    if instance.os_sku and instance.os_sku.lower() != family.lower():
        return _drifted("ImageFamilyDrifted", "node image family", instance.os_sku, family)
    launched = claim.metadata.annotation(labels.NODE_IMAGE)
    if launched and instance.image and instance.image != launched:
        return _drifted("ImageDrifted", "node image", instance.image, launched)
    return None


def _drifted(reason: str, what: str, has: str, wanted: str) -> Finding:
    return Finding(DRIFTED, "True", reason, f"the instance's {what} is {has}, it was to be {wanted}")
