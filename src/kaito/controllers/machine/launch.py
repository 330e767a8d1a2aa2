"""The launch step: one instance for the Machine, made again as often as it takes.

What happens is always written to the status before it is done: a Machine says Launching before its instance is asked for,
and why it failed before what is left of the attempt is removed. So the times of its condition tell when the last attempt
began or ended, and an attempt cannot be repeated without a pause.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.conditions import find
from kaito.api.machine import INSTANCE_TYPES_UNAVAILABLE, LAUNCHED, REGISTERED
from kaito.controllers.machine.instance import instance_spec
from kaito.controllers.machine.termination import release_nodes
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.provisioner import (
    CapacityUnavailable,
    InstanceNotFound,
    InstanceState,
    NotOwned,
    ProviderError,
    SkuUnavailable,
)

if TYPE_CHECKING:
    from kaito.api.machine import MachineCondition
    from kaito.controllers.machine.context import MachineContext
    from kaito.provisioner import Instance

LAUNCHING = "Launching"
LAUNCH_FAILED = "LaunchFailed"
REGISTRATION_TIMEOUT = "RegistrationTimeout"
NOT_LAUNCHED = "MachineNotLaunched"
MESSAGE_LIMIT = 800
"""Characters of a message that repeats what the cloud said."""


class LaunchStep:
    condition: ClassVar[str] = LAUNCHED
    failed: ClassVar[str] = LAUNCH_FAILED
    missing: ClassVar[tuple[str, str]] = (NOT_LAUNCHED, "Machine is not launched")

    async def reconcile(self, ctx: MachineContext) -> Outcome:
        launched = find(ctx.machine.status.conditions, LAUNCHED)
        if launched is None:
            return _announce(ctx)
        if launched.status == "True":
            return _launched(ctx)
        failed = launched.status == "False"
        try:
            return await (_try_again(ctx, launched) if failed else _launch(ctx))
        except ProviderError as error:
            if not error.transient:
                return Fail(LAUNCH_FAILED, _words(error), _delay(ctx, error).total_seconds())
            soon = max(error.retry_after or 0.0, ctx.settings.poll_interval)
            if failed:
                return Fail(launched.reason or "", launched.message or "", soon)
            return Wait(LAUNCHING, _cut(f"trying again: {error}"), soon, "Unknown")


def _announce(ctx: MachineContext) -> Wait:
    sizes = " or ".join(ctx.machine.spec.requirement(labels.INSTANCE_TYPE))
    return Wait(LAUNCHING, f"asking for an instance of size {sizes}", 0.0, "Unknown")


def _launched(ctx: MachineContext) -> Outcome:
    """What was launched stays launched, unless its Node does not come, or does not come back."""
    registered = find(ctx.machine.status.conditions, REGISTERED)
    waiting = registered is not None and registered.status != "True" and registered.reason != NOT_LAUNCHED
    if registered is None or not waiting or ctx.since(registered).total_seconds() < ctx.settings.registration_ttl:
        return Proceed()
    minutes = ctx.settings.registration_ttl / 60
    return Fail(
        REGISTRATION_TIMEOUT,
        f"no Node of the instance has been ready to register for {minutes:g} minutes ({registered.reason}): the "
        "instance is being replaced",
        0.0,
    )


async def _launch(ctx: MachineContext) -> Outcome:
    try:
        instance = await ctx.provider.get(ctx.name)
    except InstanceNotFound:
        if leftovers := await release_nodes(ctx):
            message = f"waiting for an earlier Node {leftovers[0]} to go"
            return Wait(LAUNCHING, message, ctx.settings.poll_interval, "Unknown")
        instance = await ctx.provider.create(instance_spec(ctx.machine))
    return _progress(ctx, instance)


def _progress(ctx: MachineContext, instance: Instance) -> Outcome:
    _check_owner(ctx, instance)
    what = f"instance {instance.name} of size {instance.vm_size}"
    if instance.state is InstanceState.RUNNING:
        return Proceed(message=f"{what} runs")
    if instance.state is InstanceState.FAILED:
        error = instance.error or ProviderError(f"{what} is {instance.phase}")
        return Fail(LAUNCH_FAILED, _words(error), 0.0)
    return Wait(LAUNCHING, f"{what} is {instance.phase}", ctx.settings.poll_interval, "Unknown")


async def _try_again(ctx: MachineContext, failed: MachineCondition) -> Outcome:
    """Remove what is left of the last attempt, wait, and announce the next one; what recovered by itself is kept."""

    def hold(seconds: float) -> Fail:
        return Fail(failed.reason or "", failed.message or "", seconds)

    try:
        instance = await ctx.provider.get(ctx.name)
    except InstanceNotFound:
        if await release_nodes(ctx):
            return hold(ctx.settings.poll_interval)
        left = _delay(ctx, before=ctx.since(failed)) - ctx.since(failed)
        return hold(left.total_seconds()) if left > timedelta(0) else _announce(ctx)
    _check_owner(ctx, instance)
    if failed.reason == LAUNCH_FAILED and instance.state not in (InstanceState.FAILED, InstanceState.DELETING):
        return _progress(ctx, instance)
    if instance.state is not InstanceState.DELETING:
        await ctx.provider.delete(instance)
    return hold(ctx.settings.poll_interval)


def _check_owner(ctx: MachineContext, instance: Instance) -> None:
    if instance.owner != ctx.uid:
        owner = f"the Machine with uid {instance.owner}" if instance.owner else "someone else"
        raise NotOwned(f"there is already an instance {instance.name}, which belongs to {owner}")


def _delay(ctx: MachineContext, error: ProviderError | None = None, *, before: timedelta = timedelta(0)) -> timedelta:
    """The pause after an attempt that failed ``before`` now: as long again as the Machine had been tried by then.

    So the pauses double, and a restart remembers them.
    """
    least, most = timedelta(seconds=ctx.settings.retry_min), timedelta(seconds=ctx.settings.retry_max)
    if error is not None and error.terminal:
        return most
    return min(max(ctx.now - before - ctx.created, least), most)


def _words(error: ProviderError) -> str:
    unavailable = isinstance(error, CapacityUnavailable | SkuUnavailable)
    return _cut(f"{INSTANCE_TYPES_UNAVAILABLE}: {error}" if unavailable else str(error))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 3] + "..."
