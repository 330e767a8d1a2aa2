"""The registration step: find the one Node of the instance, and mark both as belonging together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kaito.api import labels
from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import LAUNCHED, NODE_CLAIM, REGISTERED
from kaito.controllers.pipeline import Outcome, Proceed, Wait
from kaito.runtime import NODES, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.machine import Taint
    from kaito.controllers.machine.context import ClaimContext
    from kaito.runtime import Manifest

_LABELS_OF_NODE = {
    labels.INSTANCE_TYPE: labels.INSTANCE_TYPE,
    labels.AZURE_ZONE: labels.ZONE,
    labels.ZONE: labels.ZONE,
}
"""Labels of the claim, which ``kubectl get`` shows, and those of the Node that they repeat."""


class RegistrationStep:
    condition: ClassVar[str] = REGISTERED
    failed: ClassVar[str] = "RegistrationFailed"
    missing: ClassVar[tuple[str, str]] = ("NodeNotFound", "Node not registered with cluster")

    async def reconcile(self, ctx: ClaimContext) -> Outcome:
        node = _choose(ctx)
        if isinstance(node, Wait):
            return node
        name = nodes.name_of(node)
        if nodes.is_deleting(node):
            return await _follow(ctx, name)
        try:
            ctx.node = await _take(ctx, node)
        except NotFound:
            return _wait(ctx, *self.missing)
        await _describe(ctx, node)
        status = node.get("status", {})
        ctx.observed |= {
            "node_name": name,
            "provider_id": nodes.provider_id(node),
            "capacity": status.get("capacity") or {},
            "allocatable": status.get("allocatable") or {},
        }
        instance = ctx.cloud.find(ctx.name)
        if ctx.claim.kind is NODE_CLAIM and instance is not None and instance.image:
            ctx.observed["image_id"] = instance.image
        return Proceed(message=f"Node {name} belongs to this {ctx.claim.kind.resource.kind}")


def _choose(ctx: ClaimContext) -> Manifest | Wait:
    """The claim's Node. A registered one stays the claim's whatever joins beside it, as in an upgrade of the pool."""
    found = ctx.nodes()
    for node in found:
        if nodes.name_of(node) == ctx.claim.node_name and ctx.claim.holds(REGISTERED):
            return node
    alive = [node for node in found if not nodes.is_deleting(node)]
    if not alive:
        return _wait(ctx, *RegistrationStep.missing)
    if len(alive) > 1:
        names = ", ".join(sorted(map(nodes.name_of, alive)))
        return _wait(ctx, "MultipleNodesFound", f"there should be one Node, but there are {len(alive)}: {names}")
    if not nodes.provider_id(alive[0]):
        return _wait(ctx, "NodeNotFound", f"Node {nodes.name_of(alive[0])} has no provider id yet")
    return alive[0]


def _wait(ctx: ClaimContext, reason: str, message: str) -> Wait:
    """Until a Node event, or until the launch step gives up."""
    waited = ctx.claim.since(LAUNCHED, ctx.now).total_seconds() if ctx.claim.launched else 0.0
    left = ctx.settings.node_grace if ctx.claim.node_name else ctx.settings.registration_ttl - waited
    return Wait(reason, message, max(1.0, left))


async def _follow(ctx: ClaimContext, node: str) -> Wait:
    """Whoever deletes the Node wants the machine gone: the finalizer holds the Node until it is."""
    try:
        await ctx.client.delete(ctx.claim.kind.resource, ctx.name, uid=ctx.uid)
    except NotFound:
        pass  # it went first
    else:
        kind = ctx.claim.kind.resource.kind
        ctx.emit("Normal", "NodeDeleted", f"deleting the {kind}, because its Node {node} is being deleted")
    return Wait("NodeDeleting", f"Node {node} is being deleted")


async def _take(ctx: ClaimContext, node: Manifest) -> Manifest:
    """The Node with the finalizer, the owner and the label of a registered one."""
    metadata = node["metadata"]
    changed: dict[str, Any] = {}
    finalizers, owners = metadata.get("finalizers") or [], metadata.get("ownerReferences") or []
    if labels.TERMINATION_FINALIZER not in finalizers:
        changed["finalizers"] = [*finalizers, labels.TERMINATION_FINALIZER]
    if not any(owner["uid"] == ctx.uid for owner in owners):
        others = [owner for owner in owners if owner["kind"] != ctx.claim.kind.resource.kind]
        changed["ownerReferences"] = [*others, _owner(ctx)]
    patch: dict[str, Any] = {"metadata": changed}
    if nodes.label(node, labels.NODE_REGISTERED) != "true":
        if (taints := _synced_taints(ctx, node)) is not None:
            patch["spec"] = {"taints": taints}
        changed["labels"] = {labels.NODE_REGISTERED: "true"}
    if not changed:
        return node
    if {"finalizers", "ownerReferences"} & changed.keys() or "spec" in patch:
        # Lists are replaced as a whole: never over someone else's change.
        changed["resourceVersion"] = metadata["resourceVersion"]
    taken: Manifest = await ctx.client.patch(NODES, metadata["name"], patch)
    return taken


def _synced_taints(ctx: ClaimContext, node: Manifest) -> list[dict[str, Any]] | None:
    """What the Node of a NodeClaim is to be tainted with when it registers; None to leave it. AKS has seen to ``taints``,
    but knows nothing of startup taints."""
    if ctx.claim.kind is not NODE_CLAIM or nodes.label(node, labels.DO_NOT_SYNC_TAINTS) == "true":
        return None
    present = node.get("spec", {}).get("taints") or []
    kept = [taint for taint in present if taint["key"] != labels.UNREGISTERED_TAINT]
    carried = {(taint["key"], taint["effect"]) for taint in kept}
    missing = [
        _taint(taint)
        for taint in _all(ctx.claim.taints, ctx.claim.startup_taints)
        if (taint.key, taint.effect) not in carried
    ]
    return [*kept, *missing] if missing or len(kept) < len(present) else None


def _all(*groups: Iterable[Taint]) -> list[Taint]:
    return [taint for group in groups for taint in group]


def _taint(taint: Taint) -> dict[str, Any]:
    return {"key": taint.key, "effect": taint.effect} | ({"value": taint.value} if taint.value else {})


def _owner(ctx: ClaimContext) -> dict[str, Any]:
    resource = ctx.claim.kind.resource
    return {"apiVersion": resource.api_version, "kind": resource.kind, "name": ctx.name, "uid": ctx.uid}


async def _describe(ctx: ClaimContext, node: Manifest) -> None:
    """Let the claim show what its node is like, and remember what it was launched with."""
    metadata, instance = ctx.claim.metadata, ctx.cloud.find(ctx.name)
    shown = {key: nodes.label(node, source) for key, source in _LABELS_OF_NODE.items()}
    if not metadata.label(labels.CAPACITY_TYPE):
        spot = nodes.label(node, "kubernetes.azure.com/scalesetpriority") == labels.SPOT
        shown[labels.CAPACITY_TYPE] = labels.SPOT if spot else labels.ON_DEMAND
    changed: dict[str, Any] = {}
    if new := {key: value for key, value in shown.items() if value and metadata.label(key) != value}:
        changed["labels"] = new
    first = not ctx.claim.node_name or not metadata.annotation(labels.NODE_IMAGE)
    if first and instance is not None and instance.image and metadata.annotation(labels.NODE_IMAGE) != instance.image:
        changed["annotations"] = {labels.NODE_IMAGE: instance.image}
    if changed:
        await ctx.client.patch(ctx.claim.kind.resource, ctx.name, {"metadata": {"uid": ctx.uid, **changed}})
