"""The reconcile of one claim: finalizer, steps, one write of status, Events."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kaito.api import labels
from kaito.controllers.machine import health
from kaito.controllers.machine.breaker import NODE_UNHEALTHY
from kaito.controllers.machine.claims import DRIFTED, NODE_READY, Claim
from kaito.controllers.machine.context import ClaimContext
from kaito.controllers.machine.drift import find_drift
from kaito.controllers.machine.initialization import InitializationStep
from kaito.controllers.machine.launch import REGISTRATION_TIMEOUT, LaunchStep
from kaito.controllers.machine.metrics import DELETED, REGISTRATION, UNHEALTHY
from kaito.controllers.machine.registration import RegistrationStep
from kaito.controllers.machine.status import became_true, ending, judged, next_status, transitions
from kaito.controllers.machine.steps import ClaimStep, held_up
from kaito.controllers.machine.termination import REMOVAL, release_nodes
from kaito.controllers.pipeline import EventKind, Finding, Report, run, write_status
from kaito.runtime import (
    DecodeError,
    Invalid,
    NotFound,
    ObjectReference,
    PatchType,
    Request,
    Result,
    any_of,
    deletion_marked,
    generation_changed,
    get_logger,
    labels_changed,
    parse_time,
    remove_finalizer,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaito.controllers.machine.breaker import Breaker
    from kaito.controllers.machine.claims import ClaimKind
    from kaito.controllers.machine.cloud import Cloud
    from kaito.controllers.machine.metrics import ClaimMetrics
    from kaito.controllers.machine.settings import Settings
    from kaito.runtime import Client, Clock, EventRecorder, Lister, Manifest, Stored

STEPS: Final[tuple[ClaimStep, ...]] = (LaunchStep(), RegistrationStep(), InitializationStep())

DISRUPTIONS: Final = {REGISTRATION_TIMEOUT: REGISTRATION, NODE_UNHEALTHY: UNHEALTHY}
"""Why an instance is replaced, as the metrics name it."""

claim_matters = any_of(generation_changed, deletion_marked, labels_changed)
"""The controller's own writes of status bring it nothing new."""

_log = get_logger("machine")


def _unreadable(stored: Stored[Any]) -> bool:
    try:
        stored.decode()
    except DecodeError as error:
        _log.warning("a claim is ended that cannot be read", claim=stored.key.name, error=str(error))
        return True
    return False


class ClaimReconciler:
    def __init__(
        self,
        kind: ClaimKind,
        client: Client,
        claims: Lister[Any],
        node_lister: Lister[Manifest],
        cloud: Cloud,
        breaker: Breaker,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
        metrics: ClaimMetrics,
    ) -> None:
        self._kind = kind
        self._client = client
        self._claims = claims
        self._nodes = node_lister
        self._cloud = cloud
        self._breaker = breaker
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._metrics = metrics

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._claims.stored(request.key.name)
        if stored is None or not self._kind.is_ours(stored):
            return None
        meta = stored.meta
        if meta.deleting:
            return await self._finish(stored) if labels.TERMINATION_FINALIZER in meta.finalizers else None
        # Before anything is asked of the cloud: no instance without a claim that holds on to it.
        ctx = self._context(stored, await self._take_on(stored))
        self._look(ctx)
        report = await run(STEPS, ctx, held_up)
        findings = judged([*report.findings, *ctx.findings, *self._remarks(ctx)])
        try:
            await self._write_status(ctx, findings, report)
        except NotFound:
            return None
        result = report.result()
        if ctx.trouble is not None and (result is None or (result.requeue_after or 0.0) > ctx.trouble.recheck):
            return Result(requeue_after=max(1.0, ctx.trouble.recheck))
        return result

    async def _take_on(self, stored: Stored[Any]) -> Any:
        """The claim with the finalizer, and with the mark by which it is known again whatever becomes of its labels."""
        meta = stored.meta
        if labels.TERMINATION_FINALIZER in meta.finalizers and meta.annotations.get(labels.MANAGED) == "true":
            return stored.decode()
        finalizers = dict.fromkeys((*meta.finalizers, labels.TERMINATION_FINALIZER))
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "finalizers": list(finalizers),
                "annotations": {labels.MANAGED: "true"},
            }
        }
        taken = await self._client.patch(self._kind.resource, meta.name, patch, kind=PatchType.MERGE)
        if labels.TERMINATION_FINALIZER not in meta.finalizers:
            self._metrics.created(Claim(self._kind, taken))
        return taken

    def _look(self, ctx: ClaimContext) -> None:
        """What is wrong with the Node, and whether that may be mended now."""
        trouble = health.look(ctx)
        if trouble is not None and trouble.due:
            trouble = replace(trouble, blocked=self._not_mended(ctx))
        ctx.trouble = trouble

    def _not_mended(self, ctx: ClaimContext) -> str:
        """Why a sick Node is left as it is; empty to replace it."""
        if not self._settings.node_repair:
            return "node repair is turned off"
        instance = self._cloud.find(ctx.name)
        if instance is not None and instance.stopped:
            return "somebody has stopped its instance"
        return self._breaker.admit(ctx.claim)

    def _remarks(self, ctx: ClaimContext) -> list[Finding]:
        """Conditions that nothing waits for."""
        found = [health.finding(ctx)]
        instance = self._cloud.find(ctx.name)
        if ctx.node is not None and instance is not None and instance.owner == ctx.uid:
            found.append(find_drift(ctx.claim, instance))
        remarks = [entry for entry in found if entry is not None]
        ctx.dropped |= {NODE_READY, DRIFTED} - {entry.type for entry in remarks}
        return remarks

    async def _finish(self, stored: Stored[Any]) -> Result | None:
        ctx = self._context(stored, self._kind.bare(stored) if (unreadable := _unreadable(stored)) else stored.decode())
        report = await run(REMOVAL, ctx, held_up)
        if report.stop is not None:
            if not unreadable:
                await self._tell_ending(ctx, report)
            return report.result()
        if not ctx.foreign:
            await release_nodes(ctx)
        try:
            await remove_finalizer(self._client, self._kind.resource, stored.meta, labels.TERMINATION_FINALIZER)
        except NotFound:
            return None
        self._metrics.terminated(ctx.claim, DELETED, self._lasted(ctx))
        ctx.emit("Normal", "Terminated", "nothing is left of the instance")
        return None

    async def _tell_ending(self, ctx: ClaimContext, report: Report) -> None:
        try:
            await self._write_status(ctx, ending(report.findings), report)
        except NotFound:
            return
        except Invalid as error:
            # An object from before a rule of its schema: its instance goes all the same.
            _log.warning("the status of a claim cannot be written", claim=ctx.name, error=error.message)

    def _lasted(self, ctx: ClaimContext) -> float:
        """Seconds that the deletion took."""
        began = ctx.claim.metadata.deletion_timestamp
        return max(0.0, (self._clock.now() - parse_time(began)).total_seconds()) if began else 0.0

    def _context(self, stored: Stored[Any], claim: Any) -> ClaimContext:
        return ClaimContext(
            claim=Claim(self._kind, claim),
            client=self._client,
            node_lister=self._nodes,
            cloud=self._cloud,
            breaker=self._breaker,
            settings=self._settings,
            now=self._clock.now(),
            emit=partial(self._emit, ObjectReference.of(self._kind.resource, stored)),
        )

    def _emit(self, regarding: ObjectReference, kind: EventKind, reason: str, note: str) -> None:
        self._recorder.event(regarding, kind, reason, note)

    async def _write_status(self, ctx: ClaimContext, findings: Sequence[Finding], report: Report) -> None:
        """One patch, only where something differs; what it tells of is told and counted once it is written."""
        before = ctx.claim
        status = next_status(before, findings, ctx.now, observed=ctx.observed, dropped=ctx.dropped)
        if not await write_status(self._client, self._kind.resource, before.object, status):
            return
        after = Claim(before.kind, before.object.model_copy(update={"status": status}))
        for told in transitions(before, after, findings):
            ctx.emit(*told)
        for condition in became_true(before, after):
            self._metrics.became(before, condition)
        if before.launched and report.stop is not None and report.stop.reason in DISRUPTIONS:
            self._metrics.disrupted(before, DISRUPTIONS[report.stop.reason])
