"""Taints of nodes follow their conditions: not ready, or cordoned.

Looser than kube-controller-manager: whether a node is ready is the kubelet's word alone. A node whose heartbeats stop is
not marked unreachable and its pods are not evicted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from kaito.devcluster.controllers import conditions
from kaito.devcluster.controllers.placement import UNSCHEDULABLE_TAINT
from kaito.devcluster.controllers.scheduler import node_matters
from kaito.runtime import (
    NODES,
    Client,
    Conflict,
    Controller,
    Event,
    Lister,
    Manager,
    Manifest,
    NotFound,
    PatchType,
    Request,
)

NAME = "node-lifecycle-controller"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"


def wanted_taints(node: Mapping[str, Any]) -> list[Manifest]:
    """The node's taints as its readiness and schedulability ask for; all others stay."""
    held: list[Manifest] = list(node["spec"].get("taints") or ())
    ready = conditions.find(node, "Ready")
    due = {UNSCHEDULABLE_TAINT: bool(node["spec"].get("unschedulable"))}
    if ready is not None:
        due[NOT_READY_TAINT] = ready.get("status") != "True"
    for key, wanted in due.items():
        present = any(taint["key"] == key for taint in held)
        if wanted and not present:
            held = [*held, {"key": key, "effect": "NoSchedule"}]
        elif present and not wanted:
            held = [taint for taint in held if taint["key"] != key]
    return held


class NodeReconciler:
    def __init__(self, client: Client, nodes: Lister[Manifest]) -> None:
        self._client = client
        self._nodes = nodes

    async def reconcile(self, request: Request) -> None:
        node = self._nodes.get(request.key.name)
        if node is None or "deletionTimestamp" in node["metadata"]:
            return
        taints = wanted_taints(node)
        if taints == (node["spec"].get("taints") or []):
            return
        patch = [
            {"op": "test", "path": "/spec", "value": node["spec"]},
            {"op": "add", "path": "/spec/taints", "value": taints},
        ]
        # A change of the spec, and of nothing else, is in the way, and brings the node here again.
        with contextlib.suppress(NotFound, Conflict):
            await self._client.patch(NODES, request.key.name, patch, kind=PatchType.JSON)


def _ready_or_spec(event: Event[Any]) -> bool:
    if event.old is None or event.new is None:
        return True
    ready = [conditions.is_true(stored.decode(), "Ready") for stored in (event.old, event.new)]
    return ready[0] != ready[1] or node_matters(event)


def setup(manager: Manager) -> None:
    reconciler = NodeReconciler(manager.client, manager.cache.lister(NODES))
    manager.add(Controller(NAME, reconciler, primary=NODES, predicate=_ready_or_spec))
