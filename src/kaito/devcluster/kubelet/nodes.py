"""The node's side of the kubelet: simulated Nodes are ready, have addresses, and keep up their leases.

Looser than a kubelet: nothing is measured. A node never runs out of anything and never stops being ready while it exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kaito.devcluster.kubelet.addresses import NODE_NETWORK, Addresses
from kaito.devcluster.kubelet.containers import SIMULATED
from kaito.runtime import (
    LEASES,
    NODES,
    AlreadyExists,
    Client,
    Clock,
    Conflict,
    Controller,
    EventRecorder,
    LabelSelector,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    PatchType,
    Request,
    Result,
    format_micro_time,
    format_time,
    matches_labels,
    owner_reference,
    parse_time,
)

NAME = "kubelet"
VERSION = "v1.32.0+kaito-sim"
SYSTEM_NODE = "kaito-system-0"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
LEASE_PERIOD = 10.0
"""Seconds between two renewals of a node's lease."""
_ADDRESS_INDEX = "kubelet/address"
STATUS_PERIOD = 300.0
"""Seconds after which the conditions get a new heartbeat although nothing has changed."""
_CONDITIONS = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    "Ready": ("True", "KubeletReady", "the kubelet is simulated: it posts ready status and runs nothing"),
}


def system_node() -> Manifest:
    """A node without GPU on which ordinary pods find a place."""
    capacity = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "128Gi", "pods": "250"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": SYSTEM_NODE,
            "labels": {
                "kubernetes.azure.com/mode": "system",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": SYSTEM_NODE,
                "kubernetes.io/os": "linux",
                SIMULATED: "true",
            },
        },
        "spec": {"providerID": f"simulated:///{SYSTEM_NODE}"},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def node_status(node: Mapping[str, Any], address: str, now: datetime) -> Manifest:
    """What the kubelet of a simulated node reports: its own conditions, for those of others are not its affair. What the node
    says already of addresses and itself stays."""
    name, held = node["metadata"]["name"], node.get("status") or {}
    moment = format_time(now)
    known = {item["type"]: item for item in held.get("conditions") or ()}
    reported = []
    for kind, (status, reason, message) in _CONDITIONS.items():
        before = known.get(kind, {})
        since = before.get("lastTransitionTime", moment) if before.get("status") == status else moment
        reported.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": moment,
                "lastTransitionTime": since,
            }
        )
    addresses = {item["type"]: item for item in held.get("addresses") or ()}
    addresses.setdefault("InternalIP", {"type": "InternalIP", "address": address})
    addresses.setdefault("Hostname", {"type": "Hostname", "address": name})
    info = {
        "architecture": "amd64",
        "operatingSystem": "linux",
        "osImage": "simulated",
        "kernelVersion": "simulated",
        "containerRuntimeVersion": "simulated://0",
        "kubeProxyVersion": "",
        "machineID": "",
        "systemUUID": "",
        "bootID": "",
        **(held.get("nodeInfo") or {}),
        "kubeletVersion": VERSION,
    }
    return {
        "conditions": reported,
        "addresses": list(addresses.values()),
        "nodeInfo": info,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }


def is_reported(node: Mapping[str, Any]) -> bool:
    """Whether this kubelet has spoken for the node and nobody has contradicted it."""
    held = node.get("status") or {}
    said = {(item["type"], item["status"], item.get("message")) for item in held.get("conditions") or ()}
    wanted = {(kind, status, message) for kind, (status, _, message) in _CONDITIONS.items()}
    ours = (held.get("nodeInfo") or {}).get("kubeletVersion") == VERSION
    return ours and wanted <= said and bool(internal_ip(node))


def internal_ip(node: Mapping[str, Any]) -> str:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return next((str(item["address"]) for item in addresses if item["type"] == "InternalIP"), "")


class NodeReporter:
    def __init__(self, client: Client, nodes: Lister[Manifest], recorder: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._nodes = nodes
        self._recorder = recorder
        self._clock = clock
        self._addresses = Addresses(NODE_NETWORK, lambda address: bool(nodes.by_index(_ADDRESS_INDEX, address)))
        self._renewed: dict[str, float] = {}
        """When the lease of each node was last renewed, on the monotonic clock."""

    async def reconcile(self, request: Request) -> Result | None:
        name = request.key.name
        stored = self._nodes.stored(name)
        if stored is None or stored.labels.get(SIMULATED) != "true":
            self._renewed.pop(name, None)
            return None
        node, meta = stored.decode(), stored.meta
        if not is_reported(node) or self._is_stale(node):
            await self._report(node, meta)
        now = self._clock.monotonic()
        due = self._renewed.get(name, float("-inf")) + LEASE_PERIOD
        if now >= due:
            await self._renew(meta)
            self._renewed[name], due = now, now + LEASE_PERIOD
        return Result(requeue_after=due - now)

    def _is_stale(self, node: Manifest) -> bool:
        ready = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
        return (self._clock.now() - parse_time(ready["lastHeartbeatTime"])).total_seconds() >= STATUS_PERIOD

    async def _report(self, node: Manifest, meta: ObjectMeta) -> None:
        address = internal_ip(node) or self._addresses.take()
        status = node_status(node, address, self._clock.now())
        patch = {"metadata": {"uid": meta.uid}, "status": status}
        was_ready = any(
            item["type"] == "Ready" and item["status"] == "True"
            for item in (node.get("status") or {}).get("conditions") or ()
        )
        # Conditions and addresses are merged with those of others by their types.
        with contextlib.suppress(NotFound, Conflict):
            await self._client.patch(NODES, meta.name, patch, subresource="status", kind=PatchType.STRATEGIC)
            if not was_ready:
                note = f"Node {meta.name} status is now: NodeReady"
                self._recorder.event(ObjectReference.of(NODES, meta), "Normal", "NodeReady", note)

    async def _renew(self, meta: ObjectMeta) -> None:
        moment = format_micro_time(self._clock.now())
        try:
            await self._client.patch(LEASES, meta.name, {"spec": {"renewTime": moment}}, namespace=LEASE_NAMESPACE)
        except NotFound:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": meta.name,
                    "namespace": LEASE_NAMESPACE,
                    "ownerReferences": [owner_reference(NODES, meta, controller=False, block_deletion=False)],
                },
                "spec": {
                    "holderIdentity": meta.name,
                    "leaseDurationSeconds": LEASE_SECONDS,
                    "renewTime": moment,
                },
            }
            with contextlib.suppress(AlreadyExists):
                await self._client.create(LEASES, lease)


def setup(manager: Manager) -> None:
    manager.cache.add_index(NODES, _ADDRESS_INDEX, lambda node: (internal_ip(node.peek()),))
    reporter = NodeReporter(manager.client, manager.cache.lister(NODES), manager.recorder(NAME), manager.clock)
    simulated = matches_labels(LabelSelector.of({SIMULATED: "true"}))
    manager.add(Controller("kubelet-nodes", reporter, primary=NODES, predicate=simulated, max_concurrent=4))
