"""Reading all that belongs to a Workspace: once, or whenever something of it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.cli.cluster.picture import Seen
from kaito.controllers.workspace.claims import claim_key
from kaito.controllers.workspace.orders import MACHINE_SOURCE, NODE_CLAIM_SOURCE
from kaito.runtime import (
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    CacheNotStarted,
    Controller,
    Key,
    LabelSelector,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    Request,
    Requirement,
    Resource,
    RestConfig,
    Watch,
    first_of,
    manifest_resource,
)

if TYPE_CHECKING:
    from kaito.runtime import Client, Stored

WORKSPACE = manifest_resource("kaito.sh", "v1beta1", "Workspace", "workspaces")
ORDERS = (MACHINE_SOURCE.resource, NODE_CLAIM_SOURCE.resource)
WORKLOADS = (DEPLOYMENTS, STATEFUL_SETS, JOBS)

Lists = Callable[[Resource[Manifest], str, LabelSelector | None], Awaitable[list[Manifest]]]
"""Objects of a kind in a namespace with labels; none where the cluster does not know the kind."""


def of_workspace(name: str) -> LabelSelector:
    return LabelSelector.of({labels.WORKSPACE: name})


async def read(client: Client, namespace: str, name: str) -> Seen:
    """Raises NotFound where there is no such Workspace, and other errors of the API."""

    async def lists(resource: Resource[Manifest], where: str, chosen: LabelSelector | None) -> list[Manifest]:
        with suppress(NotFound):
            return await client.list(resource, where, labels=chosen)
        return []

    return await _gather(await client.get(WORKSPACE, name, namespace), lists, namespace)


async def _gather(workspace: Manifest, lists: Lists, namespace: str) -> Seen:
    name = workspace["metadata"]["name"]
    own = of_workspace(name)
    claimed = LabelSelector((Requirement(claim_key(namespace, name), "Exists"),))
    found = await asyncio.gather(
        *(lists(resource, "", own) for resource in ORDERS),
        *(lists(NODES, "", chosen) for chosen in (own, claimed)),
        *(lists(resource, namespace, None) for resource in (*WORKLOADS, SERVICES)),
        lists(PODS, namespace, own),
    )
    machines, claims, made, held, *workloads, services, pods = found
    nodes = {node["metadata"]["name"]: node for node in (*made, *held)}
    return Seen(
        workspace,
        [order for order in (*machines, *claims) if _orders_for(order, namespace)],
        list(nodes.values()),
        [each for kind in workloads for each in kind if _is_of(each, workspace)],
        pods,
        [each for each in services if _is_of(each, workspace)],
    )


def _orders_for(order: Manifest, namespace: str) -> bool:
    return bool((order["metadata"].get("labels") or {}).get(labels.WORKSPACE_NAMESPACE) == namespace)


def _is_of(manifest: Manifest, workspace: Manifest) -> bool:
    uid = workspace["metadata"].get("uid")
    return any(owner.get("uid") == uid for owner in manifest["metadata"].get("ownerReferences") or ())


async def follow(config: RestConfig, namespace: str, name: str) -> AsyncGenerator[Seen | None, None]:
    """What is there, then again after each change; None while there is no such Workspace. Close the generator: it watches."""
    manager = Manager(config, ManagerOptions(metrics_address="0", health_address="0", grace_period=1.0))
    changed = asyncio.Event()
    cache = manager.cache
    listers = {
        resource: cache.lister(resource, namespaces=(namespace,)) for resource in (WORKSPACE, *WORKLOADS, SERVICES)
    }
    listers[PODS] = cache.lister(PODS, namespaces=(namespace,), labels=of_workspace(name))
    listers[NODES] = cache.lister(NODES)

    class Note:
        async def reconcile(self, request: Request) -> None:
            changed.set()

    one = (Key("", name),)

    def always(stored: Stored[Any]) -> tuple[Key, ...]:
        return one

    spaces = (namespace,)
    watches: list[Watch[Any]] = [Watch(each, always, namespaces=spaces) for each in (WORKSPACE, *WORKLOADS, SERVICES)]
    watches += [Watch(PODS, always, namespaces=spaces, labels=of_workspace(name)), Watch(NODES, always)]
    manager.add(Controller("status", Note(), watches=watches, needs_leader=False))

    def serve(resource: Resource[Manifest]) -> None:
        listers[resource] = cache.lister(resource, labels=of_workspace(name))
        watch: Watch[Any] = Watch(resource, always, labels=of_workspace(name))
        manager.add(Controller(f"status-{resource.plural}", Note(), watches=(watch,), needs_leader=False))

    for resource in ORDERS:
        manager.when_served(resource, partial(serve, resource))

    async def lists(resource: Resource[Manifest], where: str, chosen: LabelSelector | None) -> list[Manifest]:
        lister = listers.get(resource)
        with suppress(CacheNotStarted):
            return lister.list(where, labels=chosen) if lister is not None else []
        return []

    running = asyncio.create_task(manager.run())
    try:
        await first_of(manager.elected.wait(), running)
        while not running.done():
            changed.clear()
            workspace = listers[WORKSPACE].get(name, namespace)
            yield None if workspace is None else await _gather(workspace, lists, namespace)
            await first_of(changed.wait(), running)
        await running
    finally:
        manager.stop()
        await asyncio.wait({running})
