"""The reconcile of one Workspace: steps, one write of status, Events; or its end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.api.conditions import is_true
from kaito.api.resources import WORKSPACES
from kaito.api.workspace import WORKSPACE_SUCCEEDED
from kaito.controllers.pipeline import EventKind, Finding, run, write_status
from kaito.controllers.workspace.configs import ConfigMaps
from kaito.controllers.workspace.context import Caches, WorkspaceContext
from kaito.controllers.workspace.deletion import delete_orders, deleting
from kaito.controllers.workspace.holding import release_all
from kaito.controllers.workspace.inference import InferenceStep
from kaito.controllers.workspace.resource import MachineStep, NodeClaimStep, NodesStep, ResourceStep
from kaito.controllers.workspace.revision import RevisionStep
from kaito.controllers.workspace.status import (
    WorkspaceStep,
    held_up,
    next_status,
    only_words,
    transitions,
    with_summary,
)
from kaito.controllers.workspace.tuning import CompletionStep, TuningStep
from kaito.controllers.workspace.upgrades import Upgrades
from kaito.controllers.workspace.validation import ValidationStep
from kaito.runtime import Conflict, Key, NotFound, ObjectReference, Request, Result, get_logger, remove_finalizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.metrics import WorkspaceMetrics
    from kaito.controllers.workspace.settings import Settings
    from kaito.models import Catalogue
    from kaito.runtime import Client, Clock, EventRecorder, Stored

_log = get_logger("workspace")

NODE_STEPS: dict[str, type[NodesStep]] = {"machine": MachineStep, "nodeclaim": NodeClaimStep, "byo": NodesStep}
"""By node source."""
WORDS = 10.0
"""Seconds between two writes of a status in which only words differ."""
TURN = 30.0
"""Seconds until a Workspace that waits for its turn to be upgraded looks again."""


class WorkspaceReconciler:
    def __init__(
        self,
        client: Client,
        caches: Caches,
        configs: ConfigMaps,
        recorder: EventRecorder,
        clock: Clock,
        *,
        catalogue: Catalogue,
        settings: Settings,
        metrics: WorkspaceMetrics,
        upgrades: Upgrades | None = None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._recorder = recorder
        self._clock = clock
        self._catalogue = catalogue
        self._settings = settings
        self._metrics = metrics
        self._upgrades = upgrades or Upgrades(settings.upgrades)
        self._written: dict[Key, float] = {}
        """When the status of Workspaces that are on their way was written last."""
        before: tuple[WorkspaceStep, ...] = (
            ValidationStep(configs),
            RevisionStep(),
            NODE_STEPS[settings.source](),
            ResourceStep(),
        )
        self.inference: tuple[WorkspaceStep, ...] = (*before, InferenceStep())
        self.tuning: tuple[WorkspaceStep, ...] = (*before, TuningStep(), CompletionStep())

    async def reconcile(self, request: Request) -> Result | None:
        try:
            return await self._reconcile(request)
        except Conflict as conflict:
            # Somebody was faster, and the cache has yet to hear of it. Nothing is wrong: again, at a growing distance.
            _log.debug("overtaken", error=conflict.message)
            return Result(requeue_after=0.0)

    async def _reconcile(self, request: Request) -> Result | None:
        stored = self._caches.workspaces.stored(request.key.name, request.key.namespace)
        if stored is None:
            self._upgrades.forget(request.key)
            self._written.pop(request.key, None)
            return None
        if stored.meta.deleting:
            if labels.WORKSPACE_FINALIZER in stored.meta.finalizers:
                await self._finish(stored)
            return None
        ctx = self._context(stored, stored.decode())
        steps = self.inference if ctx.workspace.tuning is None else self.tuning
        report = await run(steps, ctx, held_up)
        later = await self._write_status(ctx, with_summary(report), target=ctx.target)
        result = report.result()
        if result is None and ctx.outdated and self._upgrades.policy == "rolling":
            return Result(requeue_after=TURN)
        if later is not None and (result is None or (result.requeue_after or later) >= later):
            return Result(requeue_after=later)
        return result

    async def _finish(self, stored: Stored[Workspace]) -> None:
        """Wait, from event to event, until the Machines are gone; then let the Nodes and the Workspace go."""
        ctx = self._context(stored, stored.decode())
        remaining = await delete_orders(ctx)
        try:
            if remaining:
                await self._write_status(ctx, [deleting(remaining)])
            else:
                await release_all(ctx)
                await remove_finalizer(self._client, WORKSPACES, stored.meta, labels.WORKSPACE_FINALIZER)
                self._upgrades.forget(stored.key)
        except NotFound:
            return

    def _context(self, stored: Stored[Workspace], workspace: Workspace) -> WorkspaceContext:
        return WorkspaceContext(
            workspace=workspace,
            client=self._client,
            caches=self._caches,
            catalogue=self._catalogue,
            settings=self._settings,
            clock=self._clock,
            upgrades=self._upgrades,
            emit=partial(self._emit, ObjectReference.of(WORKSPACES, stored)),
        )

    def _emit(self, regarding: ObjectReference, kind: EventKind, reason: str, note: str) -> None:
        self._recorder.event(regarding, kind, reason, note)

    async def _write_status(
        self, ctx: WorkspaceContext, findings: Iterable[Finding], *, target: int | None = None
    ) -> float | None:
        """One patch, only where something differs; what it tells of is told once it is written.

        Seconds until it should be written, where that can wait: progress is not told word by word.
        """
        before, now = ctx.workspace.status, self._clock.now()
        after = next_status(ctx.workspace, findings, ctx.worker_nodes, now, target=target)
        key, moment = Key(ctx.namespace, ctx.name), self._clock.monotonic()
        wait = self._written.get(key, moment - WORDS) + WORDS - moment
        if before != after and wait > 0 and only_words(before, after):
            return wait
        if await write_status(self._client, WORKSPACES, ctx.workspace, after):
            self._metrics.moved(ctx.workspace, before, after, now)
            self._written[key] = moment
            for told in transitions(before, after):
                ctx.emit(*told)
        if is_true(after.conditions, WORKSPACE_SUCCEEDED):
            self._written.pop(key, None)
        return None
