"""The rehearsal: what the Workspace will run is shown to the API server before a node is bought for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.controllers.pipeline import REFUSALS, Fail, Wait
from kaito.controllers.workspace.apply import not_ours
from kaito.controllers.workspace.desired import desired_objects
from kaito.runtime import SERVICES, AlreadyExists

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext

RETRY = 30.0
"""Seconds until a rehearsal that was refused is tried again: what stood in the way may have gone."""


async def rehearse(ctx: WorkspaceContext, failed: str) -> Wait | Fail | None:
    """Why the workload could not be made, with ``failed`` as the reason; None if the API server would accept all of it."""
    stage = ctx.client.with_options(dry_run=True, field_validation="Strict")
    for wanted in desired_objects(ctx):
        what = f"{wanted.resource.kind} {wanted.name}"
        live = wanted.lister.get(wanted.name, ctx.namespace)
        if live is not None:
            obstacle = not_ours(ctx.workspace, live, what, pending=failed, failed=failed)
            if obstacle is not None:
                return obstacle
            continue
        if wanted.resource == SERVICES:
            continue  # all of it is kaito's own: only one that is there already could stand in its way
        try:
            await stage.create(wanted.resource, wanted.manifest, namespace=ctx.namespace)
        except AlreadyExists:
            continue  # the cache has not heard of it yet; the step that needs it will see whose it is
        except REFUSALS as refusal:
            return Fail(
                failed,
                f"nothing is bought, because the API server would refuse {what}: {refusal.message}",
                requeue_after=RETRY,
            )
    return None
