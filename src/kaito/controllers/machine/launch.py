"""The launch step: one instance for the claim, made again as often as it takes.

What happens is always written to the status before it is done: a claim says Launching before its instance is asked for,
and why it failed before what is left of the attempt is removed. So the times of its condition tell when the last attempt
began or ended, and an attempt cannot be repeated without a pause.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.machine import INSTANCE_TYPES_UNAVAILABLE
from kaito.controllers.machine.breaker import NODE_UNHEALTHY
from kaito.controllers.machine.claims import DRAINED, LAUNCHED, REGISTERED, TERMINATING
from kaito.controllers.machine.instance import instance_spec, misunderstood
from kaito.controllers.machine.steps import cut, held_up
from kaito.controllers.machine.termination import FALLBACK, REMOVAL, release_nodes
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait, run
from kaito.provisioner import CapacityUnavailable, InstanceState, NotOwned, ProviderError, SkuUnavailable

if TYPE_CHECKING:
    from kaito.controllers.machine.claims import Said
    from kaito.controllers.machine.context import ClaimContext
    from kaito.provisioner import Instance

LAUNCHING = "Launching"
LAUNCH_FAILED = "LaunchFailed"
REGISTRATION_TIMEOUT = "RegistrationTimeout"
NOT_LAUNCHED = "MachineNotLaunched"
REPLACED = (REGISTRATION_TIMEOUT, NODE_UNHEALTHY)
"""Reasons for which an instance that runs is replaced."""


class LaunchStep:
    condition: ClassVar[str] = LAUNCHED
    failed: ClassVar[str] = LAUNCH_FAILED
    missing: ClassVar[tuple[str, str]] = (NOT_LAUNCHED, "Machine is not launched")

    async def reconcile(self, ctx: ClaimContext) -> Outcome:
        said = ctx.claim.said(LAUNCHED)
        if said is None or said.reason == "AwaitingReconciliation":
            return await _announce(ctx)
        if said.status == "True":
            return _launched(ctx)
        failed = said.status == "False"
        try:
            return await (_try_again(ctx, said) if failed else _launch(ctx))
        except ProviderError as error:
            if not error.transient:
                return Fail(LAUNCH_FAILED, _words(error), _delay(ctx, error).total_seconds())
            soon = max(error.retry_after or 0.0, ctx.settings.poll_interval)
            if failed:
                return Fail(said.reason, said.message, soon)
            return Wait(LAUNCHING, cut(f"trying again: {error}"), soon, "Unknown")


async def _announce(ctx: ClaimContext) -> Wait:
    ctx.dropped |= {DRAINED, TERMINATING}
    sizes, tried = ctx.claim.requirement(labels.INSTANCE_TYPE), _tried(ctx)
    if tried and not set(sizes) - tried:
        await _remember_tried(ctx, None)
        tried = set()
    if words := misunderstood(ctx.claim):
        ctx.emit("Warning", "NotUnderstood", words)
    wanted = " or ".join(size for size in sizes if size not in tried)
    return Wait(LAUNCHING, f"asking for an instance of size {wanted}", 0.0, "Unknown")


def _launched(ctx: ClaimContext) -> Outcome:
    """What was launched stays launched, unless its Node does not come, or falls sick and does not recover."""
    trouble, claim = ctx.trouble, ctx.claim
    if trouble is not None and trouble.due and not trouble.blocked:
        _forget_node(ctx)
        return Fail(NODE_UNHEALTHY, cut(f"{trouble.message}: the instance is being replaced"), 0.0)
    waited = claim.since(LAUNCHED, ctx.now).total_seconds()
    if claim.node_name or claim.holds(REGISTERED) or waited < ctx.settings.registration_ttl:
        return Proceed()
    registered = claim.said(REGISTERED)
    why = f" ({registered.reason})" if registered is not None and registered.reason else ""
    minutes = ctx.settings.registration_ttl / 60
    return Fail(
        REGISTRATION_TIMEOUT,
        f"no Node of the instance has been ready to register for {minutes:g} minutes{why}: the instance is being replaced",
        0.0,
    )


def _forget_node(ctx: ClaimContext) -> None:
    ctx.observed |= dict.fromkeys(("node_name", "provider_id", "capacity", "allocatable"))


async def _launch(ctx: ClaimContext) -> Outcome:
    instance = ctx.cloud.find(ctx.name)
    if instance is None:
        if not ctx.cloud.synced:
            # An instance that was asked for before a restart is in the first list.
            ctx.cloud.expect(ctx.name)
            why = f": {ctx.cloud.error}" if ctx.cloud.error is not None else ""
            return Wait(LAUNCHING, cut(f"waiting for the list of instances{why}"), FALLBACK, "Unknown")
        if leftovers := await release_nodes(ctx):
            # They may also be those of somebody's instance that the next list shows.
            ctx.cloud.expect(ctx.name)
            message = f"waiting for an earlier Node {leftovers[0]} to go"
            return Wait(LAUNCHING, message, ctx.settings.poll_interval, "Unknown")
        instance = await ctx.cloud.create(instance_spec(ctx.claim, unavailable=_tried(ctx)))
    if instance.owner not in ("", ctx.uid) and instance.state is InstanceState.DELETING:
        ctx.cloud.expect(ctx.name)
        return Wait(LAUNCHING, f"waiting for an earlier instance {instance.name} to go", FALLBACK, "Unknown")
    return await _progress(ctx, instance)


async def _make_again(ctx: ClaimContext, instance: Instance, error: ProviderError) -> Wait:
    """Something else came in between, such as a stop of the whole cluster: that is no failure of the instance's."""
    report = await run(REMOVAL, ctx, held_up)
    if report.error is not None:
        raise report.error
    ctx.findings += report.findings
    pause = report.stop.requeue_after if report.stop is not None else 0.0
    return Wait(LAUNCHING, cut(f"instance {instance.name} is made again: {error}"), pause, "Unknown")


async def _progress(ctx: ClaimContext, instance: Instance) -> Outcome:
    _check_owner(ctx, instance)
    what = f"instance {instance.name} of size {instance.vm_size}"
    if instance.state is InstanceState.RUNNING:
        return Proceed(message=f"{what} runs")
    if instance.state is InstanceState.FAILED:
        error = instance.error or ProviderError(f"{what} is {instance.phase}")
        if error.transient:
            return await _make_again(ctx, instance, error)
        if not isinstance(error, CapacityUnavailable | SkuUnavailable):
            return Fail(LAUNCH_FAILED, _words(error), 0.0)
        tried = {*_tried(ctx), instance.vm_size}
        await _remember_tried(ctx, tried)
        left = [size for size in ctx.claim.requirement(labels.INSTANCE_TYPE) if size not in tried]
        words = cut(f"{what}: {error}; trying {left[0]} next") if left else _words(error)
        return Fail(LAUNCH_FAILED, words, 0.0)
    ctx.cloud.expect(ctx.name)
    words = f"{what} is {instance.phase}"
    if ctx.cloud.error is not None:
        words = f"{words}; how far that is cannot be seen: {ctx.cloud.error}"
    return Wait(LAUNCHING, cut(words), FALLBACK, "Unknown")


async def _try_again(ctx: ClaimContext, failed: Said) -> Outcome:
    """Remove what is left of the last attempt, wait, and announce the next one; what recovered by itself is kept."""

    def hold(seconds: float | None) -> Fail:
        return Fail(failed.reason, failed.message, seconds)

    instance = ctx.cloud.find(ctx.name)
    if instance is not None:
        _check_owner(ctx, instance)
        gone_or_failed = instance.state in (InstanceState.FAILED, InstanceState.DELETING)
        if failed.reason == LAUNCH_FAILED and not gone_or_failed:
            return await _progress(ctx, instance)
    report = await run(REMOVAL, ctx, held_up)
    if report.error is not None:
        raise report.error
    if ctx.foreign:
        raise NotOwned(failed.message)
    ctx.findings += report.findings
    if report.stop is not None:
        return hold(report.stop.requeue_after)
    if await release_nodes(ctx):
        return hold(ctx.settings.poll_interval)
    sizes, tried = set(ctx.claim.requirement(labels.INSTANCE_TYPE)), _tried(ctx)
    if failed.reason in REPLACED or (tried and sizes - tried):
        return await _announce(ctx)
    failed_for = ctx.claim.since(LAUNCHED, ctx.now)
    left = _delay(ctx, before=failed_for) - failed_for
    return hold(left.total_seconds()) if left > timedelta(0) else await _announce(ctx)


def _check_owner(ctx: ClaimContext, instance: Instance) -> None:
    if instance.owner != ctx.uid:
        owner = f"the Machine with uid {instance.owner}" if instance.owner else "someone else"
        raise NotOwned(f"there is already an instance {instance.name}, which belongs to {owner}")


def _tried(ctx: ClaimContext) -> set[str]:
    """Sizes that a later failure has shown to be unavailable; those that are refused at once the provider passes over."""
    return set(filter(None, (ctx.claim.metadata.annotation(labels.UNAVAILABLE_TYPES) or "").split(",")))


async def _remember_tried(ctx: ClaimContext, tried: set[str] | None) -> None:
    value = ",".join(sorted(tried)) if tried else None
    patch = {"metadata": {"uid": ctx.uid, "annotations": {labels.UNAVAILABLE_TYPES: value}}}
    await ctx.client.patch(ctx.claim.kind.resource, ctx.name, patch)


def _delay(ctx: ClaimContext, error: ProviderError | None = None, *, before: timedelta = timedelta(0)) -> timedelta:
    """The pause after an attempt that failed ``before`` now: as long again as the claim had been tried by then.

    So the pauses double, and a restart remembers them.
    """
    least, most = timedelta(seconds=ctx.settings.retry_min), timedelta(seconds=ctx.settings.retry_max)
    if error is not None and error.terminal:
        return most
    return min(max(ctx.now - before - ctx.claim.created(ctx.now), least), most)


def _words(error: ProviderError) -> str:
    unavailable = isinstance(error, CapacityUnavailable | SkuUnavailable)
    return cut(f"{INSTANCE_TYPES_UNAVAILABLE}: {error}" if unavailable else str(error))
