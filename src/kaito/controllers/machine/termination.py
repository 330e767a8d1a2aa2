"""The end of a Machine: its instance, then its Nodes, then the finalizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.controllers.machine import nodes
from kaito.provisioner import InstanceNotFound, InstanceState, ProviderError
from kaito.runtime import NODES, NotFound, remove_finalizer

if TYPE_CHECKING:
    from kaito.controllers.machine.context import MachineContext
    from kaito.runtime import Client, Manifest, Stored


async def terminate(ctx: MachineContext) -> float | None:
    """One step towards the end: seconds until the next, None where nothing is left but the Machine itself.

    The instance is found by the Machine's name, so that it is not lost where its creation was never seen to succeed. One
    that is someone else's is left alone, and its Nodes with it.
    """
    try:
        instance = await ctx.provider.get(ctx.name)
    except InstanceNotFound:
        await release_nodes(ctx)
        return None
    except ProviderError as error:
        return _later(ctx, error)
    if instance.owner != ctx.uid:
        return None
    await _cordon(ctx)
    if instance.state is not InstanceState.DELETING:
        try:
            await ctx.provider.delete(instance)
        except ProviderError as error:
            return _later(ctx, error)
        ctx.emit("Normal", "Terminating", f"deleting instance {instance.name} of size {instance.vm_size}")
    return ctx.settings.poll_interval


def _later(ctx: MachineContext, error: ProviderError) -> float:
    if not error.transient:
        ctx.emit("Warning", "TerminationFailed", str(error))
    delay = ctx.settings.retry_max if error.terminal else ctx.settings.poll_interval
    return max(error.retry_after or 0.0, delay)


async def _cordon(ctx: MachineContext) -> None:
    """No new pods, and no new connections, for a machine that is about to go."""
    for node in ctx.nodes():
        if node.get("spec", {}).get("unschedulable"):
            continue
        patch = {
            "metadata": {"labels": {labels.EXCLUDE_FROM_LOAD_BALANCERS: "karpenter"}},
            "spec": {"unschedulable": True},
        }
        try:
            await ctx.client.patch(NODES, nodes.name_of(node), patch)
        except NotFound:
            continue


async def release_nodes(ctx: MachineContext) -> list[str]:
    """Delete the Nodes of an instance that is gone; the names of those that others still hold."""
    for stored in ctx.caches.nodes.by_index(nodes.POOL_INDEX, ctx.name):
        await release_node(ctx.client, stored)
    return sorted(nodes.name_of(node) for node in ctx.nodes())


async def release_node(client: Client, stored: Stored[Manifest]) -> None:
    """Delete a Node without its finalizer. Raises Conflict where it has changed since it was read."""
    meta = stored.meta
    try:
        await remove_finalizer(client, NODES, meta, labels.TERMINATION_FINALIZER)
        if not meta.deleting:
            await client.delete(NODES, meta.name, uid=meta.uid)
    except NotFound:
        return
