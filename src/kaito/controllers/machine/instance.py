"""The instance that a Machine asks for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.provisioner import InstanceSpec, InvalidRequest
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from kaito.api.machine import Machine

GPU_SIZES = "Standard_N"
"""What the names of VM sizes with GPUs contain."""
WORKSPACE_TAG = "kaito.sh_workspace"
"""Tag of instances: ``namespace/name`` of the Workspace."""

_OWN_LABELS = (labels.INSTANCE_TYPE, labels.AZURE_ZONE)
"""Labels of a Machine that tell what its node was like, not what it should be."""


def instance_spec(machine: Machine) -> InstanceSpec:
    """Raises InvalidRequest for a Machine that no instance can satisfy."""
    metadata = machine.metadata
    sizes = machine.spec.requirement(labels.INSTANCE_TYPE)
    if not sizes:
        raise InvalidRequest(f"machine spec has no requirement for instance type: add {labels.INSTANCE_TYPE} In [size]")
    own = {key: value for key, value in (metadata.labels or {}).items() if key not in _OWN_LABELS}
    node_labels = {
        labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT,
        **own,
        labels.MACHINE_TYPE: "gpu" if GPU_SIZES in sizes[0] else "cpu",
    }
    if metadata.creation_timestamp:
        created = parse_time(metadata.creation_timestamp)
        node_labels[labels.CREATION_TIMESTAMP] = created.strftime("%Y-%m-%dT%H-%M-%SZ")
    workspace, namespace = own.get(labels.WORKSPACE), own.get(labels.WORKSPACE_NAMESPACE)
    return InstanceSpec(
        name=metadata.name,
        owner=metadata.uid,
        vm_sizes=sizes,
        labels=node_labels,
        taints=machine.spec.taints or (),
        os_disk_gib=_os_disk_gib(machine),
        tags={WORKSPACE_TAG: f"{namespace}/{workspace}"} if workspace and namespace else {},
    )


def _os_disk_gib(machine: Machine) -> int:
    resources = machine.spec.resources
    try:
        storage = resources.request("storage") if resources else None
    except ValueError as error:
        raise InvalidRequest(f"spec.resources.requests.storage: {error}") from error
    return storage.ceil_gib() if storage is not None else 0
