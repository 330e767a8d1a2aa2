"""Which Workspaces an event concerns. Pure, apart from reading the cache of Workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import claim_key
from kaito.controllers.workspace.rollout import is_ready
from kaito.runtime import Key, LabelSelector, Requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kaito.api.workspace import Workspace
    from kaito.runtime import Event, Lister, Manifest, Stored

WORKSPACE_PODS = LabelSelector((Requirement(labels.WORKSPACE, "Exists"),))
"""Selects the pods of workloads."""

SELECTED, NAMED, CLAIM, CONFIG = "selected", "named", "claim", "config"
"""Indexes of Workspaces: by one label that they select, by Nodes that they name, by their claim, by their ConfigMap."""
UPGRADING = "upgrading"
"""Index of workloads."""
ANY = ""
"""Under which ``SELECTED`` files the Workspaces that select every Node."""


def claims_on(node: Stored[Manifest]) -> Iterable[str]:
    """The keys of the claims on a Node: for the index of Nodes by them."""
    return [key for key in node.labels if key.startswith(labels.CLAIM_PREFIX)]


def upgrading(workload: Stored[Manifest]) -> Iterable[str]:
    """Of Deployments and StatefulSets: those that a newer operator has changed, and that are not ready since."""
    if labels.UPGRADED not in workload.meta.annotations:
        return ()
    manifest = workload.peek()
    return () if is_ready(manifest, int(manifest["spec"].get("replicas", 1))) else ("",)


def selected_by(stored: Stored[Workspace]) -> Iterable[str]:
    selector = stored.peek().resource.label_selector
    pairs = sorted(selector.as_labels().items()) if selector is not None else []
    return [f"{key}={value}" for key, value in pairs[:1]] or [ANY]


def named_by(stored: Stored[Workspace]) -> Iterable[str]:
    workspace = stored.peek()
    return {*(workspace.status.worker_nodes or ()), *(workspace.resource.preferred_nodes or ())}


def claim_of(stored: Stored[Workspace]) -> Iterable[str]:
    return (claim_key(stored.key.namespace, stored.key.name),)


def config_of(stored: Stored[Workspace]) -> Iterable[str]:
    workspace = stored.peek()
    name = workspace.inference.config if workspace.inference is not None else None
    if workspace.tuning is not None:
        name = workspace.tuning.config
    return (f"{stored.key.namespace}/{name}",) if name else ()


INDEXES = {SELECTED: selected_by, NAMED: named_by, CLAIM: claim_of, CONFIG: config_of}
"""Of Workspaces."""


def workspace_of_order(order: Stored[Any]) -> Iterable[Key]:
    name, namespace = order.labels.get(labels.WORKSPACE), order.labels.get(labels.WORKSPACE_NAMESPACE)
    return (Key(namespace, name),) if name and namespace else ()


def workspace_of_pod(pod: Stored[Manifest]) -> Iterable[Key]:
    name = pod.labels.get(labels.WORKSPACE)
    return (Key(pod.key.namespace, name),) if name else ()


def workspaces_of_config(workspaces: Lister[Workspace]) -> Callable[[Stored[Any]], Iterable[Key]]:
    def keys(config: Stored[Any]) -> Iterable[Key]:
        found = workspaces.by_index(CONFIG, f"{config.key.namespace}/{config.key.name}")
        return [stored.key for stored in found]

    return keys


def workspace_of_name(workspaces: Lister[Workspace]) -> Callable[[Stored[Any]], Iterable[Key]]:
    """The Workspace that needs an object of this name, whoever owns that: an obstacle, or an orphan."""

    def keys(obj: Stored[Any]) -> Iterable[Key]:
        name = obj.key.name.removesuffix("-headless")
        return [
            Key(obj.key.namespace, each)
            for each in dict.fromkeys((obj.key.name, name))
            if workspaces.stored(each, obj.key.namespace) is not None
        ]

    return keys


def workspaces_of_node(workspaces: Lister[Workspace]) -> Callable[[Stored[Manifest]], Iterable[Key]]:
    """The Workspaces that hold a Node, name it, or select it and lack one."""

    def keys(node: Stored[Manifest]) -> Iterable[Key]:
        found = {stored.key for stored in workspaces.by_index(NAMED, node.key.name)}
        for claim in claims_on(node):
            found |= {stored.key for stored in workspaces.by_index(CLAIM, claim)}
        if labels.WORKSPACE in node.labels:
            # It was made for one Workspace, and is of no use to others.
            found |= set(workspace_of_order(node))
            return sorted(found)
        pairs = [ANY, *(f"{key}={value}" for key, value in node.labels.items())]
        for pair in pairs:
            for stored in workspaces.by_index(SELECTED, pair):
                if stored.key not in found and _lacks_nodes(stored.decode()):
                    found.add(stored.key)
        return sorted(found)

    return keys


def _lacks_nodes(workspace: Workspace) -> bool:
    status = workspace.status
    return not status.target_node_count or len(status.worker_nodes or ()) < status.target_node_count


def node_matters(event: Event[Any]) -> bool:
    """Whether an event changes anything that the choice of nodes looks at; heartbeats do not.

    Neither do the nodes of the first list: every Workspace is looked at once then, whatever the nodes are.
    """
    if event.initial:
        return False
    if event.old is None or event.new is None:
        return True
    return _facts(event.old) != _facts(event.new)


def _facts(node: Stored[Manifest]) -> tuple[object, ...]:
    manifest = node.peek()
    return (
        node.labels,
        manifest["metadata"].get("deletionTimestamp"),
        facts.is_ready(manifest),
        facts.gpus(manifest),
        facts.is_cordoned(manifest),
        (manifest.get("spec") or {}).get("taints"),
        facts.pressure(manifest),
    )
