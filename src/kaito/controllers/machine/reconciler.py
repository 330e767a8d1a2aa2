"""The reconcile of one Machine: finalizer, steps, one write of status, Events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kaito.api import labels
from kaito.api.resources import MACHINES
from kaito.controllers.machine.context import Caches, MachineContext, is_managed
from kaito.controllers.machine.initialization import InitializationStep
from kaito.controllers.machine.launch import REGISTRATION_TIMEOUT, LaunchStep
from kaito.controllers.machine.metrics import DELETED, REGISTRATION
from kaito.controllers.machine.registration import RegistrationStep
from kaito.controllers.machine.status import MachineStep, became_true, held_up, next_status, transitions
from kaito.controllers.machine.termination import terminate
from kaito.controllers.pipeline import EventKind, Report, run, write_status
from kaito.runtime import (
    NotFound,
    ObjectReference,
    Request,
    Result,
    add_finalizer,
    any_of,
    deletion_marked,
    generation_changed,
    labels_changed,
    remove_finalizer,
)

if TYPE_CHECKING:
    from kaito.api.machine import Machine
    from kaito.controllers.machine.metrics import MachineMetrics
    from kaito.controllers.machine.settings import Settings
    from kaito.provisioner import CloudProvider
    from kaito.runtime import Client, Clock, EventRecorder, Stored

STEPS: Final[tuple[MachineStep, ...]] = (LaunchStep(), RegistrationStep(), InitializationStep())

machine_matters = any_of(generation_changed, deletion_marked, labels_changed)
"""The controller's own writes of status bring it nothing new."""


class MachineReconciler:
    def __init__(
        self,
        client: Client,
        caches: Caches,
        provider: CloudProvider,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
        metrics: MachineMetrics,
    ) -> None:
        self._client = client
        self._caches = caches
        self._provider = provider
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._metrics = metrics

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._caches.machines.stored(request.key.name)
        if stored is None or not is_managed(stored.labels):
            return None
        meta = stored.meta
        if meta.deleting:
            return await self._finish(stored) if labels.TERMINATION_FINALIZER in meta.finalizers else None
        # Before anything is asked of the cloud: no instance without a Machine that holds on to it.
        added = await add_finalizer(self._client, MACHINES, meta, labels.TERMINATION_FINALIZER)
        if added is not None:
            self._metrics.created(added)
        ctx = self._context(stored, added or stored.decode())
        report = await run(STEPS, ctx, held_up)
        try:
            await self._write_status(ctx, report)
        except NotFound:
            return None
        return report.result()

    async def _finish(self, stored: Stored[Machine]) -> Result | None:
        ctx = self._context(stored, stored.decode())
        delay = await terminate(ctx)
        if delay is not None:
            return Result(requeue_after=delay)
        try:
            await remove_finalizer(self._client, MACHINES, stored.meta, labels.TERMINATION_FINALIZER)
        except NotFound:
            return None
        self._metrics.terminated(ctx.machine, DELETED)
        ctx.emit("Normal", "Terminated", "nothing is left of the Machine's instance")
        return None

    def _context(self, stored: Stored[Machine], machine: Machine) -> MachineContext:
        return MachineContext(
            machine=machine,
            client=self._client,
            caches=self._caches,
            provider=self._provider,
            settings=self._settings,
            now=self._clock.now(),
            emit=partial(self._emit, ObjectReference.of(MACHINES, stored)),
        )

    def _emit(self, regarding: ObjectReference, kind: EventKind, reason: str, note: str) -> None:
        self._recorder.event(regarding, kind, reason, note)

    async def _write_status(self, ctx: MachineContext, report: Report) -> None:
        """One patch, only where something differs; what it tells of is told and counted once it is written."""
        before = ctx.machine.status
        after = next_status(ctx.machine, report, ctx.observed, ctx.now)
        if not await write_status(self._client, MACHINES, ctx.machine, after):
            return
        for told in transitions(before, after, report):
            ctx.emit(*told)
        for condition in became_true(before, after):
            self._metrics.became(ctx.machine, condition)
        if report.stop is not None and report.stop.reason == REGISTRATION_TIMEOUT:
            self._metrics.terminated(ctx.machine, REGISTRATION)
