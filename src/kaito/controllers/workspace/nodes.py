"""Which Nodes a Workspace runs on. Pure functions of Node manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.api.quantity import Quantity
from kaito.runtime import LabelSelector

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest


def selector_of(workspace: Workspace) -> LabelSelector:
    """The label selector of the Workspace's nodes. Raises ValueError for one that is not well-formed."""
    selector = workspace.resource.label_selector
    return LabelSelector.from_object(selector.to_manifest() if selector else {}) or LabelSelector()


def name_of(node: Manifest) -> str:
    name: str = node["metadata"]["name"]
    return name


def labels_of(node: Manifest) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def is_ready(node: Manifest) -> bool:
    conditions = node.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def gpus(node: Manifest) -> int:
    """NVIDIA GPUs that pods can ask for: 0 until the device plug-in has announced them."""
    status = node.get("status", {})
    amounts = [(status.get(kind) or {}).get(labels.NVIDIA_GPU, 0) for kind in ("capacity", "allocatable")]
    return min(Quantity.parse(amount).ceil() for amount in amounts)


def made_for(node: Manifest, workspace: Workspace) -> bool:
    """Whether the Node was made by one of the Workspace's Machines."""
    own = labels_of(node)
    owner = (own.get(labels.WORKSPACE), own.get(labels.WORKSPACE_NAMESPACE))
    return owner == (workspace.metadata.name, workspace.metadata.namespace)


def objection(node: Manifest, workspace: Workspace) -> str:
    """Why the Workspace cannot use this Node, to be read after its name; empty if it can."""
    metadata, own = node["metadata"], labels_of(node)
    if metadata.get("deletionTimestamp"):
        return "is being deleted"
    if not is_ready(node):
        return "is not Ready"
    if not selector_of(workspace).matches(own):
        return f"does not have the labels {selector_of(workspace)}"
    if labels.WORKSPACE in own and not made_for(node, workspace):
        return f"was made for the Workspace {own.get(labels.WORKSPACE_NAMESPACE)}/{own[labels.WORKSPACE]}"
    size, wanted = own.get(labels.INSTANCE_TYPE), workspace.resource.instance_type
    if size != wanted and name_of(node) not in (workspace.resource.preferred_nodes or ()):
        return f"is of size {size}, not {wanted}"
    return ""


def select(nodes: Iterable[Manifest], workspace: Workspace, machine_nodes: Collection[str]) -> tuple[Manifest, ...]:
    """The Nodes to use, at most ``resource.count``.

    Preferred ones come first, then those in use already, then those of the Workspace's own Machines
    (``machine_nodes``, their names), then the others, each group by name.
    """
    preferred = workspace.resource.preferred_nodes or ()
    current = workspace.status.worker_nodes or ()

    def rank(node: Manifest) -> tuple[bool, bool, bool, str]:
        name = name_of(node)
        return name not in preferred, name not in current, name not in machine_nodes, name

    usable = [node for node in nodes if not objection(node, workspace)]
    return tuple(sorted(usable, key=rank)[: workspace.resource.count])
