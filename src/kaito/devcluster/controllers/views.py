"""What the scheduler sees of nodes and pods. It is kept between two decisions, and made anew where it has changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kaito.devcluster.controllers import pods
from kaito.devcluster.controllers.placement import NodeView, minds_neighbours, repels
from kaito.runtime import Key, Lister, Manifest, Stored

SCHEDULER = "default-scheduler"
INDEX = "scheduler"
"""Files pods under their node, and those that wait for this scheduler under ``PENDING``."""
PENDING = "pending"


def is_pending(pod: Mapping[str, Any]) -> bool:
    """Whether the pod waits for this scheduler."""
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and spec.get("schedulerName", SCHEDULER) == SCHEDULER
        and not spec.get("schedulingGates")
        and pods.is_active(pod)
    )


def index(stored: Stored[Manifest]) -> Iterable[str]:
    pod = stored.peek()
    if pod["spec"].get("nodeName"):
        return (_on(pod["spec"]["nodeName"]),)
    return (PENDING,) if is_pending(pod) else ()


def _on(node: str) -> str:
    return f"node/{node}"


class NodeViews:
    """A view of each node that is not being deleted, with the unfinished pods on it."""

    def __init__(self, nodes: Lister[Manifest], pod_lister: Lister[Manifest]) -> None:
        self._nodes = nodes
        self._pods = pod_lister
        self._held: dict[str, tuple[tuple[Stored[Manifest], ...], NodeView | None]] = {}
        """Of each node, what its view was made of, and the view."""

    def __call__(self, assumed: Mapping[str, Sequence[Stored[Manifest]]]) -> list[NodeView]:
        """``assumed``: by node, the pods that are on it although the cache does not show it yet. Nobody may change a view."""
        fresh = {}
        for node in self._nodes.stored_list():
            name = node.key.name
            parts = (node, *self._pods.by_index(INDEX, _on(name)), *assumed.get(name, ()))
            held = self._held.get(name)
            fresh[name] = held if held is not None and held[0] == parts else (parts, _view(*parts))
        self._held = fresh
        return [view for _, view in fresh.values() if view is not None]


def _view(node: Stored[Manifest], *on_it: Stored[Manifest]) -> NodeView | None:
    manifest = node.decode()
    if "deletionTimestamp" in manifest["metadata"]:
        return None
    return NodeView.of(manifest, [pod for stored in on_it if not pods.is_finished(pod := stored.decode())])


class Waiting:
    """The pods that wait for a node."""

    def __init__(self, pod_lister: Lister[Manifest]) -> None:
        self._pods = pod_lister
        self._specs: dict[Key, tuple[Stored[Manifest], Manifest]] = {}

    def for_node(self, node: Manifest) -> list[Key]:
        """Those that the node does not repel, be there room or not."""
        return [key for key, (_, spec) in self._all().items() if not repels(spec, node)]

    def for_neighbours(self) -> list[Key]:
        """Those for which it matters what runs elsewhere."""
        return [key for key, (_, spec) in self._all().items() if minds_neighbours(spec)]

    def in_namespace(self, namespace: str) -> list[Key]:
        return [pod.key for pod in self._pods.by_index(INDEX, PENDING, namespace)]

    def _all(self) -> dict[Key, tuple[Stored[Manifest], Manifest]]:
        fresh = {}
        for pod in self._pods.by_index(INDEX, PENDING):
            held = self._specs.get(pod.key)
            fresh[pod.key] = held if held is not None and held[0] is pod else (pod, pod.decode()["spec"])
        self._specs = fresh
        return fresh
