"""The Machines of a Workspace."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.api.machine import (
    Machine,
    MachineSpec,
    MachineTemplateRef,
    NodeSelectorRequirement,
    ResourceRequirements,
    Taint,
)
from kaito.api.meta import ObjectMeta

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace


def machine_name(workspace: Workspace, index: int) -> str:
    """Name of the Workspace's ``index``-th Machine: 11 characters, so that an agent pool can bear it too.

    It depends on nothing but the Workspace's uid, so whoever creates a Machine again finds the one that exists.
    """
    return "ws" + sha256(f"{workspace.metadata.uid}/{index}".encode()).hexdigest()[:9]


def build_machine(workspace: Workspace, name: str, disk: str) -> Machine:
    """A Machine for one node of the Workspace; ``disk`` is the size of its OS disk, ``0`` for the cloud's default."""
    resource = workspace.resource
    selected = resource.label_selector.as_labels() if resource.label_selector else {}
    requirements = {
        labels.INSTANCE_TYPE: resource.instance_type,
        labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT,
        labels.MACHINE_TYPE: "gpu",
        labels.ARCH: "amd64",
        labels.OS: "linux",
    }
    return Machine(
        metadata=ObjectMeta(
            name=name,
            # kaito's own labels stand last: they are how the Machine is found again.
            labels=selected
            | {
                labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT,
                labels.WORKSPACE: workspace.metadata.name,
                labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
            },
        ),
        spec=MachineSpec(
            machine_template_ref=MachineTemplateRef(name=name),
            requirements=tuple(
                NodeSelectorRequirement(key=key, operator="In", values=(value,)) for key, value in requirements.items()
            ),
            resources=ResourceRequirements(requests={"storage": disk}),
            taints=(Taint(key=labels.SKU_TAINT_KEY, value=labels.SKU_TAINT_VALUE, effect=labels.NO_SCHEDULE),),
        ),
    )
