"""Garbage collection: what is owned goes when the last of its owners goes.

Every resource of the API server is watched, custom ones as their definitions come and go. Nothing is deleted on the word
of the watches alone: an owner counts as absent only when it was seen to be deleted or the server says so.

Looser than kube-controller-manager: no events for owners in another namespace, which simply count as absent.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from kaito.devcluster.controllers.discovery import builtin, discover, established
from kaito.devcluster.controllers.graph import FOREGROUND, ORPHAN, Graph, Node, Verdict, judge
from kaito.runtime import (
    CUSTOM_RESOURCE_DEFINITIONS,
    Cache,
    Channel,
    Client,
    Conflict,
    Controller,
    Event,
    EventType,
    Key,
    Manager,
    Manifest,
    NotFound,
    OwnerReference,
    Request,
    Resource,
    Result,
)

NAME = "garbage-collector"
WORKERS = 4
SYNC_PERIOD = 1.0
"""Seconds between two looks at which watch is not complete yet."""
AGAIN = 0.05
"""Seconds until the next look at an object that somebody else has just changed."""
UNKNOWN_KIND_PERIOD = 30.0
"""Seconds between two looks at an object whose owner is of a kind that the server does not have (any more): whether that
owner exists cannot be told."""


class UnknownKind(Exception):
    """Raised within this module only."""


@dataclass(slots=True)
class _Monitor:
    """The watch of one resource."""

    cache: Cache
    run: asyncio.Task[None] | None = None
    """None where the manager's own informer serves."""


class GarbageCollector:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._client: Client = manager.client
        self._definitions = manager.cache.lister(CUSTOM_RESOURCE_DEFINITIONS)
        self._graph = Graph()
        self.stirred: Channel[str] = Channel(lambda uid: (Key("", uid),))
        """Uids to look at."""
        self._monitors: dict[Resource[Any], _Monitor] = {}
        self._by_kind: dict[tuple[str, str], Resource[Any]] = {}
        self._redefined = asyncio.Event()

    async def watch(self) -> None:
        """Watch everything until cancelled."""
        registrations = []
        try:
            for resource in builtin(await discover(self._manager.discovery), self._definitions.list()):
                self._monitors[resource] = _Monitor(self._manager.cache)
                self._by_kind[resource.group, resource.kind] = resource
                registrations.append(self._manager.cache.informer(resource).add_handler(self._seen))
            definitions = self._manager.cache.informer(CUSTOM_RESOURCE_DEFINITIONS)
            registrations.append(definitions.add_handler(lambda _: self._redefined.set()))
            async with asyncio.TaskGroup() as tasks:
                await self._follow_definitions(tasks)
        finally:
            for registration in registrations:
                registration.remove()

    async def _follow_definitions(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            self._redefined.clear()
            served = {
                resource for definition in self._definitions.list() if (resource := established(definition)) is not None
            }
            for resource in [known for known, monitor in self._monitors.items() if monitor.run is not None]:
                if resource not in served:
                    self._unwatch(resource)
            for resource in served - self._monitors.keys():
                self._watch(resource, tasks)
            await self._redefined.wait()

    def _watch(self, resource: Resource[Any], tasks: asyncio.TaskGroup) -> None:
        """Watch a custom resource with an informer of its own, which can be stopped again."""
        cache = Cache(self._manager.rest, self._manager.runtime_metrics, clock=self._manager.clock)
        informer = cache.informer(resource)
        informer.add_handler(self._seen)
        run = tasks.create_task(informer.run(), name=f"{NAME} informer {resource}")
        self._monitors[resource] = _Monitor(cache, run)
        self._by_kind[resource.group, resource.kind] = resource

    def _unwatch(self, resource: Resource[Any]) -> None:
        self._by_kind.pop((resource.group, resource.kind), None)
        run = self._monitors.pop(resource).run
        if run is not None:
            run.cancel()
        for uid in self._graph.forget_resource(resource):
            self.stirred.send(uid)

    def _seen(self, event: Event[Any]) -> None:
        stored = event.current
        gone = event.type is EventType.DELETED
        for uid in self._graph.forget(stored.uid) if gone else self._graph.observe(stored):
            self.stirred.send(uid)

    async def _synced(self) -> None:
        """Until every watch has shown what there is: before that nobody can say that an object has no dependents."""
        while late := [
            informer
            for resource, monitor in self._monitors.items()
            if not (informer := monitor.cache.informer(resource)).synced
        ]:
            # Looked at again now and then, because a definition that goes takes its watch with it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_PERIOD):
                    await late[0].wait_synced()

    # Collecting

    async def reconcile(self, request: Request) -> Result | None:
        """The key's name is a uid."""
        await self._synced()
        node = self._graph.node(request.key.name)
        if node is None:
            return None
        try:
            await self._look(node)
        except Conflict:
            return Result(requeue_after=AGAIN)
        except UnknownKind:
            return Result(requeue_after=UNKNOWN_KIND_PERIOD)
        return None

    async def _look(self, node: Node) -> None:
        if node.orphans_dependents:
            await self._orphan(node)
        elif node.awaits_dependents:
            await self._let_go(node)
        elif not node.deleting and node.owners:
            await self._judge(node)

    async def _orphan(self, node: Node) -> None:
        for dependent in self._graph.dependents(node.uid):
            live = await self._live(dependent)
            if live is not None:
                await self._drop_owners(dependent, live, {node.uid})
        await self._drop_finalizer(node, ORPHAN)

    async def _let_go(self, node: Node) -> None:
        """Release an object that is deleted in the foreground, or see to what still blocks it."""
        blocking = self._graph.blocking(node.uid)
        if not blocking:
            await self._drop_finalizer(node, FOREGROUND)
        for dependent in blocking:
            if not dependent.deleting:
                self.stirred.send(dependent.uid)

    async def _judge(self, node: Node) -> None:
        verdict = await self._verdict(node)
        if not verdict.dangling and not verdict.waiting:
            return
        live = await self._live(node)
        if live is None or "deletionTimestamp" in live["metadata"]:
            return
        if {item["uid"] for item in live["metadata"].get("ownerReferences") or ()} != {o.uid for o in node.owners}:
            return  # the watch will tell
        if verdict.solid:
            await self._drop_owners(node, live, {*verdict.dangling, *verdict.waiting})
            return
        policy = "Background"
        held = live["metadata"].get("finalizers") or ()
        if verdict.waiting and node.dependents:
            policy = "Foreground"
            if any(dependent.awaits_dependents for dependent in self._graph.dependents(node.uid)):
                await self._unblock(node, live)  # a circle: none of its members would ever go
        elif ORPHAN in held:
            policy = "Orphan"
        elif FOREGROUND in held:
            policy = "Foreground"
        with contextlib.suppress(NotFound):
            await self._client.delete(
                node.resource, node.key.name, node.key.namespace, uid=node.uid, propagation=policy
            )

    async def _verdict(self, node: Node) -> Verdict:
        existing, waiting = set(), set()
        for owner in node.owners:
            held = self._graph.owner_node(node, owner)
            if held is not None:
                existing.add(owner.uid)
                if held.awaits_dependents:
                    waiting.add(owner.uid)
            elif await self._exists(node, owner):
                existing.add(owner.uid)
        return judge(node, existing, waiting)

    async def _exists(self, node: Node, owner: OwnerReference) -> bool:
        if self._graph.known_absent(owner.uid):
            return False
        resource = self._by_kind.get((owner.group, owner.kind))
        if resource is None:
            raise UnknownKind(owner.kind)
        namespace = node.key.namespace if resource.namespaced else ""
        if resource.namespaced and not namespace:
            return False
        try:
            live = await self._client.get(resource, owner.name, namespace)
        except NotFound:
            live = None
        there = live is not None and live["metadata"]["uid"] == owner.uid
        if not there and self._graph.node(owner.uid) is None:
            self._graph.note_absent(owner.uid)
        return there

    # Reading and writing single objects

    async def _live(self, node: Node) -> Manifest | None:
        try:
            live: Manifest = await self._client.get(node.resource, node.key.name, node.key.namespace)
        except NotFound:
            return None
        return live if live["metadata"]["uid"] == node.uid else None

    async def _drop_owners(self, node: Node, live: Manifest, uids: set[str]) -> None:
        held = live["metadata"].get("ownerReferences") or []
        kept = [item for item in held if item["uid"] not in uids]
        if len(kept) != len(held):
            await self._change(node, live, {"ownerReferences": kept or None})

    async def _unblock(self, node: Node, live: Manifest) -> None:
        references = [{**item, "blockOwnerDeletion": False} for item in live["metadata"]["ownerReferences"]]
        await self._change(node, live, {"ownerReferences": references})

    async def _drop_finalizer(self, node: Node, finalizer: str) -> None:
        live = await self._live(node)
        if live is None:
            return
        held = live["metadata"].get("finalizers") or []
        if finalizer in held:
            await self._change(node, live, {"finalizers": [item for item in held if item != finalizer] or None})

    async def _change(self, node: Node, live: Manifest, metadata: dict[str, Any]) -> None:
        version = {"uid": node.uid, "resourceVersion": live["metadata"]["resourceVersion"]}
        with contextlib.suppress(NotFound):
            await self._client.patch(
                node.resource, node.key.name, {"metadata": {**version, **metadata}}, namespace=node.key.namespace
            )


def setup(manager: Manager) -> None:
    collector = GarbageCollector(manager)
    manager.add_runnable(f"{NAME} watches", collector.watch)
    manager.add(Controller(NAME, collector, sources=(collector.stirred,), max_concurrent=WORKERS))
