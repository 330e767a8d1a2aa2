"""Pods on nodes that are gone, which nobody is left to stop.

Looser than kube-controller-manager: it does not wait, and pods of an unreachable node that still exists stay as they are;
finished pods are kept whatever their number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from kaito.runtime import (
    NODES,
    PODS,
    Client,
    Controller,
    EventType,
    Key,
    Lister,
    Manager,
    Manifest,
    NotFound,
    Request,
    Stored,
    Watch,
)

NAME = "pod-garbage-collector"
_INDEX = "podgc"


class PodCollector:
    def __init__(self, client: Client, pods: Lister[Manifest], nodes: Lister[Manifest]) -> None:
        self._client = client
        self._pods = pods
        self._nodes = nodes

    async def reconcile(self, request: Request) -> None:
        stored = self._pods.stored(request.key.name, request.key.namespace)
        if stored is None:
            return
        node = stored.decode()["spec"].get("nodeName")
        if not node or self._nodes.stored(node) is not None:
            return
        with contextlib.suppress(NotFound):
            # The cache may not know a node that is a moment old.
            await self._client.get(NODES, node)
            return
        with contextlib.suppress(NotFound):
            await self._client.delete(PODS, stored.key.name, stored.key.namespace, uid=stored.uid, grace_period=0)


def _node(stored: Stored[Any]) -> Iterable[str]:
    name = stored.peek()["spec"].get("nodeName")
    return (name,) if name else ()


def setup(manager: Manager) -> None:
    cache = manager.cache
    pods = cache.lister(PODS)
    cache.add_index(PODS, _INDEX, _node)

    def on_node(stored: Stored[Any]) -> Iterable[Key]:
        return [pod.key for pod in pods.by_index(_INDEX, stored.key.name)]

    manager.add(
        Controller(
            NAME,
            PodCollector(manager.client, pods, cache.lister(NODES)),
            primary=PODS,
            predicate=lambda event: event.type is EventType.ADDED,
            watches=(Watch(NODES, on_node, lambda event: event.type is EventType.DELETED),),
        )
    )
