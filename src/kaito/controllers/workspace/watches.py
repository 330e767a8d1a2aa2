"""Which Workspaces an event concerns. Pure, apart from reading the cache of Workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace import nodes
from kaito.runtime import Key, LabelSelector, Requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kaito.api.machine import Machine
    from kaito.api.workspace import Workspace
    from kaito.runtime import Event, Lister, Manifest, Stored

WORKSPACE_PODS = LabelSelector((Requirement(labels.WORKSPACE, "Exists"),))
"""Selects the pods of workloads."""


def workspace_of_machine(machine: Stored[Machine]) -> Iterable[Key]:
    name, namespace = machine.labels.get(labels.WORKSPACE), machine.labels.get(labels.WORKSPACE_NAMESPACE)
    return (Key(namespace, name),) if name and namespace else ()


def workspace_of_pod(pod: Stored[Manifest]) -> Iterable[Key]:
    name = pod.labels.get(labels.WORKSPACE)
    return (Key(pod.key.namespace, name),) if name else ()


def workspaces_of_node(workspaces: Lister[Workspace]) -> Callable[[Stored[Manifest]], Iterable[Key]]:
    """The Workspaces that select a Node, or run on it."""

    def keys(node: Stored[Manifest]) -> Iterable[Key]:
        for stored in workspaces.stored_list():
            workspace = stored.decode()
            if node.key.name in (workspace.status.worker_nodes or ()) or _selects(workspace, node):
                yield stored.key

    return keys


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
    manifest = node.decode()
    return (
        node.labels,
        manifest["metadata"].get("deletionTimestamp"),
        nodes.is_ready(manifest),
        nodes.gpus(manifest),
    )


def _selects(workspace: Workspace, node: Stored[Manifest]) -> bool:
    try:
        return nodes.selector_of(workspace).matches(node.labels)
    except ValueError:
        return False  # the validation step tells the user
