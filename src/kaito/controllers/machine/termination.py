"""The end of an instance: its node is drained, then it goes, then its Nodes; at the end of its claim, or to be replaced.

The instance is found by the claim's name, so that it is not lost where its creation was never seen to succeed. One that is
someone else's is left alone, and its Nodes with it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from kaito.api import labels
from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import DRAINED, LAUNCHED, TERMINATING
from kaito.controllers.machine.drain import drain
from kaito.controllers.machine.steps import ClaimStep, cut
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.provisioner import InstanceNotFound, InstanceState, ProviderError
from kaito.runtime import NODES, NotFound, parse_time, remove_finalizer

if TYPE_CHECKING:
    from datetime import datetime

    from kaito.controllers.machine.context import ClaimContext
    from kaito.provisioner import Instance
    from kaito.runtime import Client, Manifest, Stored

FALLBACK = 60.0
"""Seconds until the next look where the list of instances should bring the news."""
TERMINATION_FAILED = "TerminationFailed"


class DrainStep:
    condition: ClassVar[str] = DRAINED
    failed: ClassVar[str] = "DrainFailed"
    missing: ClassVar[tuple[str, str]] = ("NodeNotDrained", "the node is being drained first")

    async def reconcile(self, ctx: ClaimContext) -> Outcome:
        found = ctx.nodes()
        if not found:
            return Proceed("NoNode", "there is no Node to drain")
        if not ctx.cloud.synced:
            ctx.cloud.expect(ctx.name)
            return _unknown(ctx)
        try:
            # A list that has left it out must not end what runs on it.
            instance = ctx.cloud.find(ctx.name) or await ctx.cloud.get(ctx.name)
        except InstanceNotFound:
            return Proceed("InstanceTerminated", "the machine behind the Node is gone")
        except ProviderError as error:
            return _refused(ctx, error)
        if instance.owner != ctx.uid or instance.state is InstanceState.DELETING:
            return Proceed("InstanceGoing", "the machine behind the Node is going, or not the claim's")
        deadline, pause = drain_deadline(ctx), ctx.settings.drain_interval
        if ctx.now >= deadline:
            return Proceed("DrainTimedOut", "the time for draining is over")
        for node in found:
            await _cordon(ctx.client, node)
            waiting = await drain(ctx.client, nodes.name_of(node), ctx.now, deadline, pause)
            if waiting is not None:
                # A machine that goes meanwhile is not waited for.
                ctx.cloud.expect(ctx.name)
                return waiting
        return Proceed(DRAINED, "no pod is left that would have to go")


class InstanceStep:
    condition: ClassVar[str] = TERMINATING
    failed: ClassVar[str] = TERMINATION_FAILED
    missing: ClassVar[tuple[str, str]] = ("", "")

    async def reconcile(self, ctx: ClaimContext) -> Outcome:
        try:
            instance = ctx.cloud.find(ctx.name) or await ctx.cloud.get(ctx.name)
            if instance.owner != ctx.uid:
                ctx.foreign = True
                return Proceed("NotOwned", "the instance of that name is someone else's")
            if instance.state is not InstanceState.DELETING:
                await ctx.cloud.delete(instance)
                ctx.emit("Normal", "Terminating", f"deleting instance {instance.name} of size {instance.vm_size}")
        except InstanceNotFound:
            return Proceed("InstanceTerminated", "the instance is gone")
        except ProviderError as error:
            return _refused(ctx, error)
        return _going(ctx, instance)


REMOVAL: Final[tuple[ClaimStep, ...]] = (DrainStep(), InstanceStep())
"""From an instance to none."""


def drain_deadline(ctx: ClaimContext) -> datetime:
    """When draining is over, whatever still runs."""
    claim = ctx.claim
    metadata = claim.metadata
    if metadata.deletion_timestamp:
        started = parse_time(metadata.deletion_timestamp)
    else:
        launched = claim.said(LAUNCHED)
        started = launched.changed if launched is not None and launched.changed else ctx.now
    limit = claim.termination_grace
    deadline = started + (timedelta(seconds=ctx.settings.drain_timeout) if limit is None else limit)
    told = metadata.annotation(labels.TERMINATION_TIMESTAMP)
    try:
        return min(deadline, parse_time(told)) if told else deadline
    except ValueError:
        return deadline


async def release_nodes(ctx: ClaimContext) -> list[str]:
    """Delete the Nodes of an instance that is gone; the names of those that others still hold."""
    for stored in ctx.node_lister.by_index(nodes.POOL_INDEX, ctx.name):
        if nodes.made_by_kaito(stored) or any(owner.uid == ctx.uid for owner in stored.meta.owner_references):
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


def _unknown(ctx: ClaimContext) -> Wait:
    error = ctx.cloud.error
    words = f"cannot list the instances: {error}" if error is not None else "waiting for the list of instances"
    return Wait("InstanceUnknown", cut(words), FALLBACK)


def _going(ctx: ClaimContext, instance: Instance) -> Wait:
    ctx.cloud.expect(ctx.name)
    words = f"instance {instance.name} is being deleted"
    if ctx.cloud.error is not None:
        words = f"{words}; how far that is cannot be seen: {ctx.cloud.error}"
    return Wait("Deleting", cut(words), FALLBACK, "True")


def _refused(ctx: ClaimContext, error: ProviderError) -> Wait | Fail:
    ctx.cloud.expect(ctx.name)
    soon = max(error.retry_after or 0.0, ctx.settings.poll_interval)
    if error.transient:
        return Wait(type(error).__name__, cut(str(error)), soon)
    ctx.emit("Warning", TERMINATION_FAILED, str(error))
    return Fail(TERMINATION_FAILED, cut(str(error)), ctx.settings.retry_max if error.terminal else soon)


async def _cordon(client: Client, node: Manifest) -> None:
    """No new pods, and no new connections, for a machine that is about to go."""
    if node.get("spec", {}).get("unschedulable"):
        return
    patch = {
        "metadata": {"labels": {labels.EXCLUDE_FROM_LOAD_BALANCERS: "karpenter"}},
        "spec": {"unschedulable": True},
    }
    try:
        await client.patch(NODES, nodes.name_of(node), patch)
    except NotFound:
        return
