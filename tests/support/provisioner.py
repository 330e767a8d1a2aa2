"""A provisioner that is not kaito's: it serves Machines or NodeClaims as the field's others do, and nothing of kaito runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from kaito.devcluster.arm import Pool, Site, build_node
from kaito.devcluster.arm.pools import requested_properties
from kaito.runtime import NODES, Client, Manifest, NotFound, Resource, manifest_resource
from support.nodes import join

MACHINES = manifest_resource("karpenter.sh", "v1alpha5", "Machine", "machines", namespaced=False)
NODE_CLAIMS = manifest_resource("karpenter.sh", "v1", "NodeClaim", "nodeclaims", namespaced=False)
FINALIZER = "karpenter.sh/termination"
_SITE = Site(subscription="another", resource_group="another", cluster="another")
_TIME = "2024-11-16T12:00:00Z"


@asynccontextmanager
async def another_provisioner(client: Client, resource: Resource[Manifest]) -> AsyncIterator[None]:
    """Serves all claims of ``resource`` until the block ends."""
    task = asyncio.create_task(_serve(client, resource), name="another provisioner")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _serve(client: Client, resource: Resource[Manifest]) -> None:
    while True:
        for claim in await client.list(resource):
            with suppress(NotFound):
                await _serve_one(client, resource, claim)
        await asyncio.sleep(0.05)


async def _serve_one(client: Client, resource: Resource[Manifest], claim: Manifest) -> None:
    metadata = claim["metadata"]
    name, finalizers = metadata["name"], metadata.get("finalizers") or []
    if metadata.get("deletionTimestamp"):
        with suppress(NotFound):
            await client.delete(NODES, _pool(claim).node_name(0))
        rest = [finalizer for finalizer in finalizers if finalizer != FINALIZER]
        await client.patch(resource, name, {"metadata": {"finalizers": rest}})
    elif FINALIZER not in finalizers:
        await client.patch(resource, name, {"metadata": {"finalizers": [*finalizers, FINALIZER]}})
        await _say(client, resource, claim, launched=True, joined=False)
    elif not (claim.get("status") or {}).get("nodeName"):
        await join(client, build_node(_pool(claim), 0))
        await _say(client, resource, claim, launched=True, joined=True)


def _pool(claim: Manifest) -> Pool:
    spec = claim["spec"]
    sizes = [term["values"][0] for term in spec["requirements"] if term["key"] == "node.kubernetes.io/instance-type"]
    properties: dict[str, Any] = {
        "vmSize": sizes[0],
        "nodeLabels": claim["metadata"].get("labels") or {},
        "nodeTaints": [f"{taint['key']}={taint['value']}:{taint['effect']}" for taint in spec.get("taints") or ()],
    }
    name = claim["metadata"]["name"]
    return Pool(_SITE, name, requested_properties(_SITE, name, {"properties": properties}))


async def _say(client: Client, resource: Resource[Manifest], claim: Manifest, *, launched: bool, joined: bool) -> None:
    name = claim["metadata"]["name"]
    kind = _knative if resource is MACHINES else _metav1
    status: dict[str, Any] = {"conditions": kind(launched=launched, joined=joined)}
    if joined:
        node = build_node(_pool(claim), 0)
        status |= {"nodeName": node["metadata"]["name"], "providerID": node["spec"]["providerID"]}
    await client.patch(resource, name, {"status": status}, subresource="status")


def _knative(*, launched: bool, joined: bool) -> list[dict[str, Any]]:
    """Sorted by type; no reason where a condition holds, and Ready repeats the first that does not."""
    waiting = {"status": "False", "reason": "NodeNotFound", "message": "Node not registered with cluster"}
    held = {"status": "True"}
    said = {
        "MachineInitialized": held if joined else waiting,
        "MachineLaunched": held if launched else waiting,
        "MachineRegistered": held if joined else waiting,
        "Ready": held if joined else waiting,
    }
    return [{"type": type_, "lastTransitionTime": _TIME, **words} for type_, words in said.items()]


def _metav1(*, launched: bool, joined: bool) -> list[dict[str, Any]]:
    """Ready last; what is not known yet is Unknown."""
    unknown = {"status": "Unknown", "reason": "AwaitingReconciliation", "message": "object is awaiting reconciliation"}
    said = dict.fromkeys(("Launched", "Registered", "Initialized", "Ready"), unknown)
    for type_ in ("Launched", *(("Registered", "Initialized", "Ready") if joined else ())):
        said[type_] = {"status": "True", "reason": type_, "message": ""}
    return [
        {"type": type_, "lastTransitionTime": _TIME, "observedGeneration": 1, **words} for type_, words in said.items()
    ]
