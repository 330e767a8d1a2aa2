"""The revision step: every specification that a Workspace has had is kept, and has a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.resources import WORKSPACES
from kaito.controllers.pipeline import Outcome, Proceed
from kaito.controllers.workspace.apply import adopt, is_orphan_of, not_ours
from kaito.controllers.workspace.manifests.ownership import controller_of
from kaito.controllers.workspace.manifests.revision import (
    HISTORY_LIMIT,
    build_revision,
    revision_name,
    specification_hash,
)
from kaito.runtime import CONTROLLER_REVISIONS, AlreadyExists, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Manifest

_NAME_LENGTHS = (5, 10, 64)
"""Lengths of the hash in a revision's name: longer ones only where two hashes begin alike."""


class RevisionStep:
    """A specification that comes back gets its old number back. With the number the Workspace gets the finalizer, before
    anything is made that would have to be taken down."""

    condition: ClassVar[str] = ""
    pending: ClassVar[str] = "workspacePending"
    failed: ClassVar[str] = "workspaceFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        hash_ = specification_hash(ctx.workspace)
        history = await self._history(ctx)
        current = next((revision for revision in history if _hash_of(revision) == hash_), None)
        if current is None:
            made = await self._create(ctx, hash_, history)
            if not isinstance(made, dict):
                return made
            current = made
            history = [*history, current]
        await self._prune(ctx, current, history)
        ctx.revision = int(current["revision"])
        await self._mark(ctx, hash_)
        return Proceed()

    async def _history(self, ctx: WorkspaceContext) -> list[Manifest]:
        """The Workspace's revisions; those of an earlier Workspace of the same name are not its history, unless they were
        left to nobody."""
        uid = ctx.workspace.metadata.uid
        found: list[Manifest] = []
        for stored in ctx.caches.revisions.by_label(labels.REVISION_OWNER, ctx.name, ctx.namespace):
            owner = stored.meta.controller_owner
            if owner is not None and owner.uid == uid:
                found.append(stored.decode())
            elif owner is None and is_orphan_of(ctx.workspace, revision := stored.decode()):
                found.append(await adopt(ctx, CONTROLLER_REVISIONS, revision))
        return found

    async def _create(self, ctx: WorkspaceContext, hash_: str, history: list[Manifest]) -> Manifest | Outcome:
        taken = {revision["metadata"]["name"] for revision in history}
        names = (revision_name(ctx.workspace, hash_, length) for length in _NAME_LENGTHS)
        name = next(name for name in names if name not in taken)
        number = max((int(revision["revision"]) for revision in history), default=0) + 1
        desired = build_revision(ctx.workspace, name, hash_, number)
        try:
            return await ctx.client.create(CONTROLLER_REVISIONS, desired, namespace=ctx.namespace)
        except AlreadyExists:
            live = await ctx.client.get(CONTROLLER_REVISIONS, name, ctx.namespace)
        obstacle = not_ours(ctx.workspace, live, f"ControllerRevision {name}", pending=self.pending, failed=self.failed)
        if obstacle is not None:
            return obstacle
        return live if controller_of(live) is not None else await adopt(ctx, CONTROLLER_REVISIONS, live)

    async def _prune(self, ctx: WorkspaceContext, current: Manifest, history: list[Manifest]) -> None:
        """Forget the oldest revisions beyond the limit, but never the current one."""
        old = sorted(
            (revision for revision in history if revision is not current),
            key=lambda revision: int(revision["revision"]),
        )
        for revision in old[: max(0, len(history) - HISTORY_LIMIT)]:
            metadata = revision["metadata"]
            try:
                await ctx.client.delete(CONTROLLER_REVISIONS, metadata["name"], ctx.namespace, uid=metadata["uid"])
            except NotFound:
                continue  # someone else was faster

    async def _mark(self, ctx: WorkspaceContext, hash_: str) -> None:
        """Write the finalizer, the hash and the number to the Workspace, with one patch."""
        metadata = ctx.workspace.metadata
        wanted = {labels.WORKSPACE_HASH: hash_, labels.WORKSPACE_REVISION: str(ctx.revision)}
        marked = all(metadata.annotation(key) == value for key, value in wanted.items())
        patch: dict[str, object] = {"uid": metadata.uid, "annotations": wanted}
        if not metadata.has_finalizer(labels.WORKSPACE_FINALIZER):
            # The list is replaced as a whole, so nobody may have changed it since.
            finalizers = [*(metadata.finalizers or ()), labels.WORKSPACE_FINALIZER]
            patch |= {"resourceVersion": metadata.resource_version, "finalizers": finalizers}
        elif marked:
            return
        ctx.workspace = await ctx.client.patch(WORKSPACES, ctx.name, {"metadata": patch}, namespace=ctx.namespace)


def _hash_of(revision: Manifest) -> str | None:
    hash_: str | None = (revision["metadata"].get("annotations") or {}).get(labels.WORKSPACE_HASH)
    return hash_
