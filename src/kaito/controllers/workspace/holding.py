"""Taking and giving back Nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import (
    CLAIM_INDEX,
    Need,
    claim_key,
    claims_of,
    mismatch,
    shortage,
    unschedulable,
)
from kaito.runtime import NODES, PODS, Conflict, FieldSelector, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Manifest

TRIES = 4


async def claim(ctx: WorkspaceContext, node: Manifest, need: Need) -> Manifest | str:
    """The Node, held by the Workspace; or why it cannot be, to be read after its name.

    The write is refused where the Node has changed since it was judged, so that no two Workspaces take the same GPUs.
    """
    name = facts.name_of(node)
    for _ in range(TRIES):
        held = await _held_by_others(ctx, node, need) if need.gpus != 0 else 0
        if why := shortage(node, need, held, lambda key: is_live(ctx, key)):
            return why
        wanted: dict[str, str | None] = {
            need.key: str(max(need.on(node), 1) if need.gpus is None else need.gpus),
            **_plugin(need),
        }
        wanted |= {key: None for key, _ in claims_of(node) if key != need.key and not is_live(ctx, key)}
        patch = {"metadata": {"resourceVersion": node["metadata"]["resourceVersion"], "labels": wanted}}
        try:
            taken: Manifest = await ctx.client.patch(NODES, name, patch)
        except Conflict:
            try:
                node = await ctx.client.get(NODES, name)
            except NotFound:
                return "does not exist any more"
            if why := mismatch(node, need) or unschedulable(node, need):
                return why
        except NotFound:
            return "does not exist any more"
        else:
            return taken
    return "changes all the time"


async def prepare(ctx: WorkspaceContext, node: Manifest, need: Need) -> Manifest:
    """The Node with the label that the device plug-in selects, and with its claim up to date."""
    wanted = _plugin(need)
    if need.gpus is None and facts.gpus(node):
        wanted[need.key] = str(facts.gpus(node))
    own = facts.labels_of(node)
    if all(own.get(key) == value for key, value in wanted.items()):
        return node
    try:
        patched: Manifest = await ctx.client.patch(NODES, facts.name_of(node), {"metadata": {"labels": wanted}})
    except NotFound:
        return node  # the event of its deletion brings the Workspace back
    return patched


async def release(ctx: WorkspaceContext, node: Manifest, need: Need, why: str) -> None:
    """Take the Workspace's claim off the Node."""
    name = facts.name_of(node)
    if not need.holds(node):
        return
    try:
        await ctx.client.patch(NODES, name, {"metadata": {"labels": {need.key: None}}})
    except NotFound:
        return
    ctx.emit("Normal", "NodeReleased", f"gave node {name} back: it {why}")


async def release_all(ctx: WorkspaceContext) -> None:
    """Take the Workspace's claim off every Node, for the end of the Workspace."""
    key = claim_key(ctx.namespace, ctx.name)
    for stored in ctx.caches.nodes.by_index(CLAIM_INDEX, key):
        try:
            await ctx.client.patch(NODES, stored.key.name, {"metadata": {"labels": {key: None}}})
        except NotFound:
            continue


def is_live(ctx: WorkspaceContext, key: str) -> bool:
    """Whether the Workspace that a claim names is there."""
    namespace, _, name = key.removeprefix(labels.CLAIM_PREFIX).partition(".")
    if claim_key(namespace, name) == key and ctx.caches.workspaces.stored(name, namespace) is not None:
        return True
    return any(
        claim_key(stored.key.namespace, stored.key.name) == key
        for stored in ctx.caches.workspaces.stored_list(namespace)
    )


async def _held_by_others(ctx: WorkspaceContext, node: Manifest, need: Need) -> int:
    """GPUs of the Node that pods hold which belong to no claim."""
    name = facts.name_of(node)
    pods = await ctx.client.list(PODS, fields=FieldSelector.parse(f"spec.nodeName={name}"))
    claimed = {key for key, _ in claims_of(node)} | {need.key}
    return facts.held_gpus(pod for pod in pods if _claim_of(pod) not in claimed)


def _claim_of(pod: Manifest) -> str:
    metadata = pod["metadata"]
    name = (metadata.get("labels") or {}).get(labels.WORKSPACE, "")
    return claim_key(metadata.get("namespace", ""), name) if name else ""


def _plugin(need: Need) -> dict[str, Any]:
    return {labels.ACCELERATOR: labels.ACCELERATOR_NVIDIA} if need.gpus != 0 else {}
