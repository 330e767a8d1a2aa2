"""The pods' side of the kubelet: pods on simulated nodes are processes, or carry out the rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kaito.devcluster.kubelet.addresses import POD_NETWORK, Addresses
from kaito.devcluster.kubelet.containers import SIMULATED
from kaito.devcluster.kubelet.host import HostKubelet
from kaito.devcluster.kubelet.nodes import NAME, internal_ip
from kaito.devcluster.kubelet.rules import Change, Rule, Scene, next_rule
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import (
    NODES,
    PODS,
    Client,
    Clock,
    Conflict,
    Controller,
    EventRecorder,
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

_NODE_INDEX, _ADDRESS_INDEX = "kubelet/node", "kubelet/address"


class PodRunner:
    def __init__(
        self,
        client: Client,
        pods: Lister[Manifest],
        nodes: Lister[Manifest],
        recorder: EventRecorder,
        clock: Clock,
        timing: Timing,
        host: HostKubelet | None,
    ) -> None:
        self._host = host
        self._client = client
        self._pods = pods
        self._nodes = nodes
        self._recorder = recorder
        self._clock = clock
        self._timing = timing
        self._addresses = Addresses(POD_NETWORK, lambda address: bool(pods.by_index(_ADDRESS_INDEX, address)))
        self._pending: dict[Key, tuple[str, str, float]] = {}
        """Uid of each pod with the rule that waits to happen to it, and since when on the monotonic clock."""

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._pods.stored(request.key.name, request.key.namespace)
        pod = stored.decode() if stored is not None else None
        node = self._nodes.get(pod["spec"].get("nodeName", "")) if pod is not None else None
        if self._host is not None:
            if stored is None or pod is None:
                await self._host.forget(request.key)
            elif node is not None and _is_simulated(node) and self._host.takes(pod):
                return await self._host.reconcile(stored, pod, node)
        rule = next_rule(pod) if pod is not None else None
        if stored is None or pod is None or rule is None or node is None or not _is_simulated(node):
            self._pending.pop(request.key, None)
            return None
        wait = self._wait(stored, pod, rule)
        if wait > 0:
            return Result(requeue_after=wait)
        await self._apply(stored, rule.then(self._scene(pod, node)))
        return None

    def _wait(self, stored: Stored[Manifest], pod: Manifest, rule: Rule) -> float:
        """Seconds until the rule is due."""
        now = self._clock.monotonic()
        uid, name, since = self._pending.get(stored.key, ("", "", now))
        if (uid, name) != (stored.uid, rule.name):
            since = now
            self._pending[stored.key] = (stored.uid, rule.name, since)
        return since + rule.after(pod, self._timing) - now

    def _scene(self, pod: Manifest, node: Manifest) -> Scene:
        host = internal_ip(node)
        held = (pod.get("status") or {}).get("podIP")
        address = host if pod["spec"].get("hostNetwork") else held or self._addresses.take()
        return Scene(pod, self._clock.now(), host, address, self._timing)

    async def _apply(self, stored: Stored[Manifest], change: Change) -> None:
        key = stored.key
        try:
            if change.remove:
                await self._client.delete(PODS, key.name, key.namespace, uid=stored.uid, grace_period=0)
            if change.status is not None:
                patch = {
                    "metadata": {"resourceVersion": stored.resource_version, "labels": {SIMULATED: "true"}},
                    "status": change.status,
                }
                await self._client.patch(PODS, key.name, patch, namespace=key.namespace, subresource="status")
        except (NotFound, Conflict):
            return  # somebody else was faster, and the news of it bring the pod here again
        self._pending.pop(key, None)
        about = ObjectReference.of(PODS, stored)
        for note in change.notes:
            self._recorder.event(about, note.kind, note.reason, note.text)


def _is_simulated(node: Manifest) -> bool:
    return bool((node["metadata"].get("labels") or {}).get(SIMULATED) == "true") and bool(internal_ip(node))


def setup(manager: Manager, timing: Timing, host: HostKubelet | None = None) -> None:
    cache = manager.cache
    pods = cache.lister(PODS)

    def node_of(stored: Stored[Any]) -> Iterable[str]:
        name = stored.peek()["spec"].get("nodeName")
        return (name,) if name else ()

    def address_of(stored: Stored[Any]) -> Iterable[str]:
        address = (stored.peek().get("status") or {}).get("podIP")
        return (address,) if address else ()

    cache.add_index(PODS, _NODE_INDEX, node_of)
    cache.add_index(PODS, _ADDRESS_INDEX, address_of)

    def on_node(stored: Stored[Any]) -> Iterable[Key]:
        return [pod.key for pod in pods.by_index(_NODE_INDEX, stored.key.name)]

    def comes_alive(event: Any) -> bool:
        """A node begins to be simulated, or gets the address without which its pods wait."""
        return event.new is not None and (event.old is None or not _serves(event.old)) and _serves(event.new)

    runner = PodRunner(manager.client, pods, cache.lister(NODES), manager.recorder(NAME), manager.clock, timing, host)
    manager.add(
        Controller(
            "kubelet",
            runner,
            primary=PODS,
            watches=(Watch(NODES, on_node, comes_alive),),
            sources=(host.changes,) if host is not None else (),
            max_concurrent=8,
        )
    )


def _serves(stored: Stored[Any]) -> bool:
    return _is_simulated(stored.decode())
