"""Bring one object of a Workspace to what is wanted: create it, take it over, or put back the fields that kaito owns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from kaito.api import labels
from kaito.controllers.pipeline import Fail, Wait
from kaito.controllers.workspace.manifests.ownership import (
    controller_of,
    controller_reference,
    difference,
    differing,
)
from kaito.runtime import SERVICES, AlreadyExists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Lister, Manifest, Resource

OBSTACLE_RETRY = 30.0
"""Seconds until an obstacle that somebody else can remove is looked at again, where its event should be missed."""
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
    found = await find_or_create(ctx, resource, lister, desired, pending=pending, failed=failed)
    if not isinstance(found, tuple):
        return found
    live, created = found
    if created:
        return live
    return await put_right(ctx, resource, live, desired)


async def find_or_create(
    ctx: WorkspaceContext,
    resource: Resource[Manifest],
    lister: Lister[Manifest],
    desired: Manifest,
    *,
    pending: str,
    failed: str,
) -> tuple[Manifest, bool] | Wait | Fail:
    """The Workspace's object of that name, and whether it was made just now."""
    name: str = desired["metadata"]["name"]
    live = lister.get(name, ctx.namespace)
    if live is None:
        try:
            created: Manifest = await ctx.client.create(resource, desired, namespace=ctx.namespace)
        except AlreadyExists:
            live = await ctx.client.get(resource, name, ctx.namespace)
        else:
            if resource != SERVICES:  # which comes with its workload
                ctx.emit("Normal", f"{resource.kind}Created", f"created {resource.kind} {name}")
            return created, True
    obstacle = not_ours(ctx.workspace, live, f"{resource.kind} {name}", pending=pending, failed=failed)
    if obstacle is not None:
        return obstacle
    if controller_of(live) is None:
        live = await adopt(ctx, resource, live)
    return live, False


async def put_right(ctx: WorkspaceContext, resource: Resource[Manifest], live: Manifest, desired: Manifest) -> Manifest:
    """The object with the owned fields as ``desired``; whoever changed them is told where to do that instead."""
    owned = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: desired["metadata"][key] for key in ("labels", "annotations") if key in desired["metadata"]}
    patch = difference({"metadata": metadata, **owned}, live)
    if not patch:
        return live
    name = live["metadata"]["name"]
    paths = list(differing({"metadata": metadata, **owned}, live))
    patched: Manifest = await ctx.client.patch(resource, name, patch, namespace=ctx.namespace)
    ctx.emit("Normal", f"{resource.kind}Updated", f"updated {resource.kind} {name}: {_listed(paths)}")
    return patched


def not_ours(workspace: Workspace, live: Manifest, what: str, *, pending: str, failed: str) -> Wait | Fail | None:
    """Why an object of the name that the Workspace needs cannot be used; None if it is the Workspace's, or was left
    behind by one of its name without an owner."""
    controller = controller_of(live)
    if controller is None and is_orphan_of(workspace, live):
        return None
    if controller is None or (controller.get("kind"), controller.get("name")) != (
        workspace.kind,
        workspace.metadata.name,
    ):
        owner = f"{controller.get('kind')} {controller.get('name')}" if controller else "nobody"
        return Fail(
            failed,
            f"{what} exists already and belongs to {owner}: delete it, or give the Workspace another name",
            requeue_after=OBSTACLE_RETRY,
        )
    if controller.get("uid") != workspace.metadata.uid or live["metadata"].get("deletionTimestamp"):
        return Wait(pending, f"waiting for an earlier {what} to be deleted", requeue_after=GARBAGE_COLLECTION)
    return None


def is_orphan_of(workspace: Workspace, live: Manifest) -> bool:
    """Whether an object without owner was made for a Workspace of this name: ``--cascade=orphan`` leaves such."""
    metadata, name = live["metadata"], workspace.metadata.name
    own, spec = metadata.get("labels") or {}, live.get("spec") or {}
    if metadata.get("deletionTimestamp"):
        return False
    if labels.WORKSPACE in own or labels.REVISION_OWNER in own:
        return name in (own.get(labels.WORKSPACE), own.get(labels.REVISION_OWNER))
    selector = spec.get("selector") or {}
    return (selector.get("matchLabels") or selector).get(labels.WORKSPACE) == name


async def adopt(ctx: WorkspaceContext, resource: Resource[Manifest], live: Manifest) -> Manifest:
    """The orphan, owned by the Workspace."""
    metadata = live["metadata"]
    references = [*(metadata.get("ownerReferences") or ()), controller_reference(ctx.workspace)]
    patch = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": references,
        }
    }
    adopted: Manifest = await ctx.client.patch(resource, metadata["name"], patch, namespace=ctx.namespace)
    ctx.emit("Normal", f"{resource.kind}Adopted", f"took over {resource.kind} {metadata['name']}, which had no owner")
    return adopted


def rendered_of(live: Mapping[str, Any]) -> dict[str, Any] | None:
    """The specification that kaito wrote last; None for an object that does not say."""
    text = (live["metadata"].get("annotations") or {}).get(labels.RENDERED)
    if not text:
        return None
    try:
        rendered = json.loads(text)
    except ValueError:
        return None
    return rendered if isinstance(rendered, dict) else None


def with_rendered(desired: Manifest) -> Manifest:
    """``desired`` with its own specification in its annotations."""
    metadata = desired["metadata"]
    text = msgspec.json.encode(desired["spec"], order="sorted").decode()
    annotations = {**(metadata.get("annotations") or {}), labels.RENDERED: text}
    return {**desired, "metadata": {**metadata, "annotations": annotations}}


def _listed(paths: list[str], limit: int = 4) -> str:
    more = f" and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(paths[:limit]) + more
