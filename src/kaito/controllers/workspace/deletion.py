"""The end of a Workspace: its Machines go first, then its claims, then the finalizer. Garbage collection takes the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api.workspace import WORKSPACE_DELETING
from kaito.controllers.pipeline import Finding
from kaito.controllers.workspace.orders import Order, cut, order_labels
from kaito.runtime import Conflict, LabelSelector, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext


async def delete_orders(ctx: WorkspaceContext) -> list[Order]:
    """Ask for the deletion of the Workspace's Machines or NodeClaims; those that are still there.

    The list is live: with the finalizer gone nobody would look for one that the cache did not know of. Where the cluster
    does not know the kind there is none.
    """
    if ctx.source is None:
        return []
    resource = ctx.source.resource
    try:
        listed = await ctx.client.list(resource, labels=LabelSelector.of(order_labels(ctx.workspace)))
    except NotFound:
        return []
    remaining = []
    for order in (Order(ctx.source, manifest) for manifest in listed):
        if order.deleted_at is None:
            try:
                await ctx.client.delete(resource, order.name, uid=order.uid)
            except (NotFound, Conflict):
                continue
            ctx.emit("Normal", f"{resource.kind}Deleted", f"asked for the deletion of {resource.kind} {order.name}")
        remaining.append(order)
    return sorted(remaining, key=lambda order: order.name)


def deleting(remaining: list[Order]) -> Finding:
    """What the deletion waits for, in the words of those who answer for it."""
    said = [
        f"{order.source.resource.kind} {order.name}{f' ({order.obstacle})' if order.obstacle else ''}"
        for order in remaining
    ]
    waiting = f": waiting for {', '.join(said)}" if said else ""
    return Finding(WORKSPACE_DELETING, "True", "workspaceDeleted", cut(f"workspace is being deleted{waiting}", 1024))
