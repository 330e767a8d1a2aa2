"""The scheduler: binds pods to nodes that can run them.

A pod that has found no node is looked at again when a node that might take it changes, or has room, and every five minutes.
Looser than kube-scheduler: no preemption, topology spread, host ports, volume topology or dynamic resources; pod affinity
is honoured where it is required, ``namespaceSelector`` in it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kaito.devcluster.controllers import conditions, views
from kaito.devcluster.controllers.placement import NodeView, misfits, preference, untolerated
from kaito.devcluster.controllers.resources import PERSISTENT_VOLUME_CLAIMS
from kaito.devcluster.controllers.views import SCHEDULER, NodeViews, Waiting, is_pending
from kaito.runtime import (
    NODES,
    PODS,
    Client,
    Clock,
    Conflict,
    Controller,
    Event,
    EventRecorder,
    EventType,
    Key,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectReference,
    Request,
    Result,
    Stored,
    Watch,
)

NAME = SCHEDULER
LOOK_AGAIN = 300.0
"""Seconds after which a pod is tried anew although nothing that is known to help has happened."""


@dataclass(frozen=True, slots=True)
class Bind:
    node: str


@dataclass(frozen=True, slots=True)
class Unschedulable:
    message: str


def decide(pod: Manifest, cluster: Sequence[NodeView]) -> Bind | Unschedulable:
    """The best node, or why there is none: the least loaded of those that fit and are preferred."""
    if not cluster:
        return Unschedulable("no nodes available to schedule pods")
    refused: Counter[str] = Counter()
    fitting = []
    for view in cluster:
        reasons = misfits(pod, view, cluster)
        refused.update(reasons)
        if not reasons:
            fitting.append(view)
    if fitting:
        return Bind(min(fitting, key=lambda view: _rank(pod, view)).name)
    total = len(cluster)
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items()))
    return Unschedulable(
        f"0/{total} nodes are available: {why}. preemption: 0/{total} nodes are available: "
        f"{total} Preemption is not helpful for scheduling."
    )


def _rank(pod: Manifest, view: NodeView) -> tuple[Any, ...]:
    spec = pod["spec"]
    avoided = untolerated(spec, view.node, ("PreferNoSchedule",)) is not None
    return (-preference(spec, view.node), avoided, len(view.pods), view.name)


def missing_claim(pod: Manifest, exists: Iterable[str]) -> str:
    """The first claim that the pod mounts and nobody has made; ``exists`` are the claims of its namespace."""
    known = set(exists)
    for volume in pod["spec"].get("volumes") or ():
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
        if name and name not in known:
            return str(name)
    return ""


class Scheduler:
    def __init__(
        self,
        client: Client,
        pod_lister: Lister[Manifest],
        nodes: Lister[Manifest],
        claims: Lister[Manifest],
        recorder: EventRecorder,
        clock: Clock,
    ) -> None:
        self._client = client
        self._pods = pod_lister
        self._views = NodeViews(nodes, pod_lister)
        self._claims = claims
        self._recorder = recorder
        self._clock = clock
        self._assumed: dict[Key, tuple[str, str]] = {}
        """Uid and node of pods that were bound here and that the cache does not show as bound yet."""

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._pods.stored(request.key.name, request.key.namespace)
        if stored is None or self._assumed.get(stored.key, ("",))[0] == stored.uid:
            return None
        pod = stored.decode()
        if not is_pending(pod):
            return None
        claims = (item.key.name for item in self._claims.stored_list(stored.key.namespace))
        cluster = self._cluster()
        claim = missing_claim(pod, claims)
        decision = (
            Unschedulable(f'0/{len(cluster)} nodes are available: persistentvolumeclaim "{claim}" not found.')
            if claim
            else decide(pod, cluster)
        )
        if isinstance(decision, Bind):
            await self._bind(stored, decision.node)
            return None
        await self._refuse(pod, stored, decision.message)
        return Result(requeue_after=LOOK_AGAIN)

    def _cluster(self) -> list[NodeView]:
        self._drop_settled()
        assumed: dict[str, list[Stored[Manifest]]] = {}
        for key, (_, target) in self._assumed.items():
            pod = self._pods.stored(key.name, key.namespace)
            if pod is not None:
                assumed.setdefault(target, []).append(pod)
        return self._views(assumed)

    def _drop_settled(self) -> None:
        for key, (uid, _) in tuple(self._assumed.items()):
            stored = self._pods.stored(key.name, key.namespace)
            if stored is None or stored.uid != uid or _placed(stored):
                del self._assumed[key]

    async def _bind(self, stored: Stored[Manifest], node: str) -> None:
        key = stored.key
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": stored.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.post(PODS, key.name, "binding", body, key.namespace)
        except (NotFound, Conflict):
            return  # deleted or bound meanwhile
        self._assumed[key] = (stored.uid, node)
        note = f"Successfully assigned {key} to {node}"
        self._recorder.event(ObjectReference.of(PODS, stored), "Normal", "Scheduled", note, action="Binding")

    async def _refuse(self, pod: Manifest, stored: Stored[Manifest], message: str) -> None:
        about = ObjectReference.of(PODS, stored)
        self._recorder.event(about, "Warning", "FailedScheduling", message, action="Scheduling")
        known = (pod.get("status") or {}).get("conditions") or []
        said = conditions.put(known, "PodScheduled", "False", "Unschedulable", message, self._clock.now())
        if said == known:
            return
        patch = {
            "metadata": {"uid": stored.uid, "resourceVersion": stored.resource_version},
            "status": {"conditions": said},
        }
        try:
            await self._client.patch(PODS, stored.key.name, patch, namespace=stored.key.namespace, subresource="status")
        except (NotFound, Conflict):
            return  # its event brings the pod here again


def _frees(event: Event[Any]) -> bool:
    """Whether a pod has left, or finished on, a node."""
    if event.type is EventType.DELETED:
        return True
    return event.new is not None and event.old is not None and _finished(event.new) and not _finished(event.old)


def _arrives(event: Event[Any]) -> bool:
    """Whether a pod has been put on a node."""
    return event.new is not None and event.old is not None and _placed(event.new) and not _placed(event.old)


def _placed(stored: Stored[Any]) -> bool:
    return b'"nodeName":"' in stored.data


def _finished(stored: Stored[Any]) -> bool:
    return b'"phase":"Succeeded"' in stored.data or b'"phase":"Failed"' in stored.data


def node_matters(event: Event[Any]) -> bool:
    """Leaves out heartbeats: a node's labels, taints, capacity and schedulability decide, not its conditions."""
    if event.old is None or event.new is None:
        return True
    return _relevant(event.old) != _relevant(event.new)


def _relevant(stored: Stored[Any]) -> tuple[Any, ...]:
    node = stored.decode()
    status = node.get("status") or {}
    return stored.labels, node.get("spec"), status.get("allocatable"), status.get("capacity")


def setup(manager: Manager) -> None:
    cache = manager.cache
    pod_lister, nodes = cache.lister(PODS), cache.lister(NODES)
    cache.add_index(PODS, views.INDEX, views.index)
    waiting = Waiting(pod_lister)

    def for_node(node: Stored[Manifest]) -> Iterable[Key]:
        return waiting.for_node(node.peek())

    def for_room(pod: Stored[Manifest]) -> Iterable[Key]:
        node = nodes.get(pod.peek()["spec"].get("nodeName", ""))
        return {*waiting.for_neighbours(), *(waiting.for_node(node) if node is not None else ())}

    scheduler = Scheduler(
        manager.client,
        pod_lister,
        nodes,
        cache.lister(PERSISTENT_VOLUME_CLAIMS),
        manager.recorder(NAME),
        manager.clock,
    )
    manager.add(
        Controller(
            NAME,
            scheduler,
            primary=PODS,
            # One at a time: each decision must see the one before.
            max_concurrent=1,
            watches=(
                Watch(NODES, for_node, node_matters),
                Watch(PODS, for_room, _frees),
                Watch(PODS, lambda _: waiting.for_neighbours(), _arrives),
                Watch(
                    PERSISTENT_VOLUME_CLAIMS,
                    lambda claim: waiting.in_namespace(claim.key.namespace),
                    lambda event: event.type is EventType.ADDED,
                ),
            ),
        )
    )
