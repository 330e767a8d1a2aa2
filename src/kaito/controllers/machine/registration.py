"""The registration step: find the one Node of the instance, and mark both as belonging together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kaito.api import labels
from kaito.api.conditions import find, is_true
from kaito.api.machine import REGISTERED
from kaito.api.resources import MACHINES
from kaito.controllers.machine import nodes
from kaito.controllers.pipeline import Outcome, Proceed, Wait
from kaito.runtime import NODES, NotFound

if TYPE_CHECKING:
    from kaito.controllers.machine.context import MachineContext
    from kaito.runtime import Manifest

_LABELS_OF_NODE = {labels.INSTANCE_TYPE: labels.INSTANCE_TYPE, labels.AZURE_ZONE: "topology.kubernetes.io/zone"}
"""Labels of the Machine, which ``kubectl get`` shows, and those of the Node that they repeat."""


class RegistrationStep:
    condition: ClassVar[str] = REGISTERED
    failed: ClassVar[str] = "RegistrationFailed"
    missing: ClassVar[tuple[str, str]] = ("NodeNotFound", "Node not registered with cluster")

    async def reconcile(self, ctx: MachineContext) -> Outcome:
        node = _choose(ctx)
        if isinstance(node, Wait):
            return node
        name = nodes.name_of(node)
        if nodes.is_deleting(node):
            return await _follow(ctx, name)
        try:
            ctx.node = await _claim(ctx, node)
        except NotFound:
            return self._not_found(ctx)
        await _label_machine(ctx, node)
        status = node.get("status", {})
        ctx.observed |= {
            "node_name": name,
            "provider_id": nodes.provider_id(node),
            "capacity": status.get("capacity") or {},
            "allocatable": status.get("allocatable") or {},
        }
        return Proceed(message=f"Node {name} belongs to this Machine")

    def _not_found(self, ctx: MachineContext) -> Wait:
        return _wait(ctx, *self.missing)


def _choose(ctx: MachineContext) -> Manifest | Wait:
    """The Machine's Node. A registered one stays the Machine's whatever joins beside it, as in an upgrade of the pool."""
    found = ctx.nodes()
    for node in found:
        if nodes.name_of(node) == ctx.machine.status.node_name and is_true(ctx.machine.status.conditions, REGISTERED):
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


def _wait(ctx: MachineContext, reason: str, message: str) -> Wait:
    """Until a Node event, or until the launch step gives up."""
    registered = find(ctx.machine.status.conditions, REGISTERED)
    waiting = registered is not None and (registered.reason, registered.message) == (reason, message)
    waited = ctx.since(registered).total_seconds() if registered is not None and waiting else 0.0
    return Wait(reason, message, max(1.0, ctx.settings.registration_ttl - waited))


async def _follow(ctx: MachineContext, node: str) -> Wait:
    """Whoever deletes the Node wants the machine gone: the finalizer holds the Node until it is."""
    try:
        await ctx.client.delete(MACHINES, ctx.name, uid=ctx.uid)
    except NotFound:
        pass  # it went first
    else:
        ctx.emit("Normal", "NodeDeleted", f"deleting the Machine, because its Node {node} is being deleted")
    return Wait("NodeDeleting", f"Node {node} is being deleted")


async def _claim(ctx: MachineContext, node: Manifest) -> Manifest:
    """The Node with the finalizer, the owner and the label of a registered one."""
    metadata = node["metadata"]
    changed: dict[str, Any] = {}
    finalizers, owners = metadata.get("finalizers") or [], metadata.get("ownerReferences") or []
    if labels.TERMINATION_FINALIZER not in finalizers:
        changed["finalizers"] = [*finalizers, labels.TERMINATION_FINALIZER]
    if not any(owner["uid"] == ctx.uid for owner in owners):
        others = [owner for owner in owners if owner["kind"] != ctx.machine.kind]
        changed["ownerReferences"] = [*others, _owner(ctx)]
    if changed:
        # Lists are replaced as a whole: never over someone else's change.
        changed["resourceVersion"] = metadata["resourceVersion"]
    if nodes.label(node, labels.NODE_REGISTERED) != "true":
        changed["labels"] = {labels.NODE_REGISTERED: "true"}
    if not changed:
        return node
    claimed: Manifest = await ctx.client.patch(NODES, metadata["name"], {"metadata": changed})
    return claimed


def _owner(ctx: MachineContext) -> dict[str, Any]:
    return {
        "apiVersion": ctx.machine.api_version,
        "kind": ctx.machine.kind,
        "name": ctx.name,
        "uid": ctx.uid,
    }


async def _label_machine(ctx: MachineContext, node: Manifest) -> None:
    shown = {key: nodes.label(node, source) for key, source in _LABELS_OF_NODE.items()}
    changed = {key: value for key, value in shown.items() if value and ctx.machine.metadata.label(key) != value}
    if changed:
        await ctx.client.patch(MACHINES, ctx.name, {"metadata": {"uid": ctx.uid, "labels": changed}})
