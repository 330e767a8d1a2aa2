"""Namespaces: a dying one is emptied and let go; a living one gets its default service account and the cluster's CA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from kaito.devcluster.controllers import conditions
from kaito.devcluster.controllers.discovery import discover
from kaito.runtime import (
    CONFIG_MAPS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    AlreadyExists,
    Client,
    Clock,
    Controller,
    Discovery,
    Forbidden,
    Key,
    Lister,
    Manager,
    Manifest,
    NotFound,
    Request,
    Resource,
    Result,
    Stored,
    Watch,
    parse_time,
)

NAME = "namespace-controller"
FINALIZER = "kubernetes"
DEFAULT_ACCOUNT = "default"
AUTHORITY = "kube-root-ca.crt"
_FIRST_LOOK, _LAST_LOOK = 0.2, 5.0
"""Seconds between two looks at what is left of a namespace, from the first to the longest."""


class NamespaceReconciler:
    def __init__(
        self,
        client: Client,
        discovery: Discovery,
        namespaces: Lister[Manifest],
        accounts: Lister[Manifest],
        config_maps: Lister[Manifest],
        clock: Clock,
        authority: str,
    ) -> None:
        self._client = client
        self._discovery = discovery
        self._namespaces = namespaces
        self._accounts = accounts
        self._config_maps = config_maps
        self._clock = clock
        self._authority = authority

    async def reconcile(self, request: Request) -> Result | None:
        namespace = self._namespaces.get(request.key.name)
        if namespace is None:
            return None
        if "deletionTimestamp" not in namespace["metadata"]:
            await self._furnish(request.key.name)
            return None
        if FINALIZER not in (namespace.get("spec") or {}).get("finalizers", ()):
            return None
        return await self._drain(namespace)

    async def _furnish(self, name: str) -> None:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT_ACCOUNT}}
        if self._accounts.stored(DEFAULT_ACCOUNT, name) is None:
            await self._create(SERVICE_ACCOUNTS, account, name)
        note = {
            "kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using "
            "internal endpoints such as the internal service IP or kubernetes.default.svc."
        }
        data = {"ca.crt": self._authority}
        held = self._config_maps.get(AUTHORITY, name)
        if held is None:
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": AUTHORITY, "annotations": note},
                "data": data,
            }
            await self._create(CONFIG_MAPS, body, name)
        elif held.get("data") != data:
            await self._client.update(CONFIG_MAPS, {**held, "data": data})

    async def _create(self, resource: Resource[Manifest], body: Manifest, namespace: str) -> None:
        """Both answers that are ignored mean that the namespace, or the object, changed under our eyes; events follow."""
        with contextlib.suppress(AlreadyExists, Forbidden, NotFound):
            await self._client.create(resource, body, namespace=namespace)

    async def _drain(self, namespace: Manifest) -> Result | None:
        name = namespace["metadata"]["name"]
        left: dict[str, list[Mapping[str, Any]]] = {}
        for resource in await discover(self._discovery):
            if resource.namespaced:
                remaining = await self._empty(resource, name)
                if remaining:
                    left[resource.group_resource] = remaining
        now = self._clock.now()
        if not left:
            await self._finalize(namespace)
            return None
        status = {**(namespace.get("status") or {}), "conditions": terminating_conditions(namespace, left, now)}
        if status != namespace.get("status"):
            await self._client.update_status(NAMESPACES, {**namespace, "status": status})
        waited = (now - parse_time(namespace["metadata"]["deletionTimestamp"])).total_seconds()
        return Result(requeue_after=min(_LAST_LOOK, max(_FIRST_LOOK, waited / 4)))

    async def _empty(self, resource: Resource[Manifest], namespace: str) -> list[Mapping[str, Any]]:
        """Ask for the deletion of every object of ``resource``; the metadata of those that are still there afterwards."""
        try:
            items = await self._client.list(resource, namespace)
            for item in items:
                if "deletionTimestamp" not in item["metadata"]:
                    with contextlib.suppress(NotFound):
                        await self._client.delete(resource, item["metadata"]["name"], namespace)
            return [item["metadata"] for item in await self._client.list(resource, namespace)] if items else []
        except NotFound:
            return []  # a definition that went meanwhile

    async def _finalize(self, namespace: Manifest) -> None:
        name = namespace["metadata"]["name"]
        finalizers = [item for item in namespace["spec"]["finalizers"] if item != FINALIZER]
        body = {**namespace, "spec": {**namespace["spec"], "finalizers": finalizers}}
        with contextlib.suppress(NotFound):
            await self._client.rest.send("PUT", NAMESPACES.path("", name, "finalize"), body=msgspec.json.encode(body))


def terminating_conditions(
    namespace: Manifest, left: Mapping[str, Iterable[Mapping[str, Any]]], now: datetime
) -> list[Manifest]:
    """What a namespace that is not empty yet says of itself. ``left``: metadata of what remains, by resource."""
    remaining = {name: list(items) for name, items in sorted(left.items())}
    counts = ", ".join(f"{name} has {len(items)} resource instances" for name, items in remaining.items())
    finalizers: dict[str, int] = {}
    for items in remaining.values():
        for item in items:
            for finalizer in item.get("finalizers") or ():
                finalizers[finalizer] = finalizers.get(finalizer, 0) + 1
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    states = {
        "NamespaceDeletionDiscoveryFailure": (
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        "NamespaceDeletionGroupVersionParsingFailure": (
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        "NamespaceDeletionContentFailure": (
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        "NamespaceContentRemaining": (
            ("True", "SomeResourcesRemain", f"Some resources are remaining: {counts}")
            if counts
            else ("False", "ContentRemoved", "All content successfully removed")
        ),
        "NamespaceFinalizersRemaining": (
            ("True", "SomeFinalizersRemain", f"Some content in the namespace has finalizers remaining: {held}")
            if held
            else ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished")
        ),
    }
    known = (namespace.get("status") or {}).get("conditions") or []
    for kind, (status, reason, message) in states.items():
        known = conditions.put(known, kind, status, reason, message, now)
    return known


def _furniture(name: str) -> Any:
    """A mapper from the object that every namespace has to its namespace."""

    def keys(stored: Stored[Any]) -> Iterable[Key]:
        return (Key("", stored.key.namespace),) if stored.key.name == name else ()

    return keys


def setup(manager: Manager, authority: bytes) -> None:
    """``authority``: the PEM certificates by which pods verify the API server."""
    cache = manager.cache
    reconciler = NamespaceReconciler(
        manager.client,
        manager.discovery,
        cache.lister(NAMESPACES),
        cache.lister(SERVICE_ACCOUNTS),
        cache.lister(CONFIG_MAPS),
        manager.clock,
        authority.decode(),
    )
    manager.add(
        Controller(
            NAME,
            reconciler,
            primary=NAMESPACES,
            watches=(
                Watch(SERVICE_ACCOUNTS, _furniture(DEFAULT_ACCOUNT)),
                Watch(CONFIG_MAPS, _furniture(AUTHORITY)),
            ),
            max_concurrent=4,
        )
    )
