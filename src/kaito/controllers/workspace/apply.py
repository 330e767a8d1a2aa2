"""Bring one object of a Workspace to what is wanted: create it, or put back the fields that kaito owns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.controllers.pipeline import Fail, Wait
from kaito.controllers.workspace.manifests.ownership import controller_of, difference, present
from kaito.runtime import AlreadyExists

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Lister, Manifest, Resource

GARBAGE_COLLECTION = 2.0
"""Seconds until the next look where an object of a Workspace that is gone has to be collected first."""


async def ensure(
    ctx: WorkspaceContext,
    resource: Resource[Manifest],
    lister: Lister[Manifest],
    desired: Manifest,
    *,
    pending: str,
    failed: str,
) -> Manifest | Wait | Fail:
    """The object as it is once its owned fields are as ``desired``; an outcome where that cannot be now.

    ``pending`` and ``failed`` are the reasons of that outcome. API errors are raised.
    """
    name: str = desired["metadata"]["name"]
    live = lister.get(name, ctx.namespace)
    if live is None:
        try:
            created: Manifest = await ctx.client.create(resource, present(desired), namespace=ctx.namespace)
        except AlreadyExists:
            live = await ctx.client.get(resource, name, ctx.namespace)
        else:
            ctx.emit("Normal", f"{resource.kind}Created", f"created {resource.kind} {name}")
            return created
    obstacle = not_ours(ctx.workspace, live, f"{resource.kind} {name}", pending=pending, failed=failed)
    if obstacle is not None:
        return obstacle
    owned = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: desired["metadata"][key] for key in ("labels", "annotations") if key in desired["metadata"]}
    patch = difference({"metadata": metadata, **owned}, live)
    if not patch:
        return live
    patched = await ctx.client.patch(resource, name, patch, namespace=ctx.namespace)
    ctx.emit("Normal", f"{resource.kind}Updated", f"updated {resource.kind} {name}: {_changed_fields(patch)}")
    return patched


def not_ours(workspace: Workspace, live: Manifest, what: str, *, pending: str, failed: str) -> Wait | Fail | None:
    """Why an object of the name that the Workspace needs cannot be used; None if the Workspace controls it."""
    controller = controller_of(live)
    if controller is None or (controller.get("kind"), controller.get("name")) != (
        workspace.kind,
        workspace.metadata.name,
    ):
        owner = f"{controller.get('kind')} {controller.get('name')}" if controller else "nobody"
        return Fail(
            failed,
            f"{what} exists already and belongs to {owner}: delete it, or give the Workspace another name",
        )
    if controller.get("uid") != workspace.metadata.uid or live["metadata"].get("deletionTimestamp"):
        return Wait(pending, f"waiting for an earlier {what} to be deleted", requeue_after=GARBAGE_COLLECTION)
    return None


def _changed_fields(patch: Manifest) -> str:
    return ", ".join(
        f"{part}.{name}" for part, value in patch.items() for name in (value if isinstance(value, dict) else ())
    )
