"""The reconcile of one Workspace: finalizer, steps, one write of status, Events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kaito.api import labels
from kaito.api.resources import WORKSPACES
from kaito.controllers.pipeline import EventKind, Finding, run, write_status
from kaito.controllers.workspace.context import Caches, WorkspaceContext
from kaito.controllers.workspace.deletion import delete_machines, deleting
from kaito.controllers.workspace.inference import InferenceStep
from kaito.controllers.workspace.resource import MachineStep, ResourceStep
from kaito.controllers.workspace.revision import RevisionStep
from kaito.controllers.workspace.status import WorkspaceStep, held_up, next_status, transitions, with_summary
from kaito.controllers.workspace.tuning import TuningStep
from kaito.controllers.workspace.validation import ValidationStep
from kaito.runtime import NotFound, ObjectReference, Request, Result, add_finalizer, remove_finalizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.settings import Settings
    from kaito.models import Catalogue
    from kaito.runtime import Client, Clock, EventRecorder, Stored

INFERENCE: Final[tuple[WorkspaceStep, ...]] = (
    ValidationStep(),
    RevisionStep(),
    MachineStep(),
    ResourceStep(),
    InferenceStep(),
)
TUNING: Final[tuple[WorkspaceStep, ...]] = (ValidationStep(), RevisionStep(), TuningStep())


class WorkspaceReconciler:
    def __init__(
        self,
        client: Client,
        caches: Caches,
        recorder: EventRecorder,
        clock: Clock,
        *,
        catalogue: Catalogue,
        settings: Settings,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._clock = clock
        self._catalogue = catalogue
        self._settings = settings

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._caches.workspaces.stored(request.key.name, request.key.namespace)
        if stored is None:
            return None
        meta = stored.meta
        if meta.deleting:
            if labels.WORKSPACE_FINALIZER in meta.finalizers:
                await self._finish(stored)
            return None
        workspace = await add_finalizer(self._client, WORKSPACES, meta, labels.WORKSPACE_FINALIZER)
        ctx = self._context(stored, workspace or stored.decode())
        report = await run(INFERENCE if ctx.workspace.tuning is None else TUNING, ctx, held_up)
        await self._write_status(ctx, with_summary(report))
        return report.result()

    async def _finish(self, stored: Stored[Workspace]) -> None:
        """Wait, from event to event, until the Machines are gone; then let the Workspace go."""
        ctx = self._context(stored, stored.decode())
        remaining = await delete_machines(ctx)
        try:
            if remaining:
                await self._write_status(ctx, [deleting(remaining)])
            else:
                await remove_finalizer(self._client, WORKSPACES, stored.meta, labels.WORKSPACE_FINALIZER)
        except NotFound:
            return

    def _context(self, stored: Stored[Workspace], workspace: Workspace) -> WorkspaceContext:
        return WorkspaceContext(
            workspace=workspace,
            client=self._client,
            caches=self._caches,
            catalogue=self._catalogue,
            settings=self._settings,
            emit=partial(self._emit, ObjectReference.of(WORKSPACES, stored)),
        )

    def _emit(self, regarding: ObjectReference, kind: EventKind, reason: str, note: str) -> None:
        self._recorder.event(regarding, kind, reason, note)

    async def _write_status(self, ctx: WorkspaceContext, findings: Iterable[Finding]) -> None:
        """One patch, only where something differs; what it tells of is told once it is written."""
        before = ctx.workspace.status
        after = next_status(ctx.workspace, findings, ctx.worker_nodes, self._clock.now())
        if await write_status(self._client, WORKSPACES, ctx.workspace, after):
            for told in transitions(before, after):
                ctx.emit(*told)
