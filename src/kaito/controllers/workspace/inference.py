"""The inference step: Services and a workload, and the truth about whether they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from kaito.api import labels
from kaito.api.workspace import INFERENCE_READY
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.controllers.workspace.apply import ensure, find_or_create, with_rendered
from kaito.controllers.workspace.desired import Wanted, desired_services, desired_workload
from kaito.controllers.workspace.manifests.ownership import controller_of, differing
from kaito.controllers.workspace.manifests.service import headless_name
from kaito.controllers.workspace.orders import cut
from kaito.controllers.workspace.pods import worst_problem
from kaito.controllers.workspace.rollout import Rollout, is_ready, plan, ready_replicas, whose
from kaito.controllers.workspace.watches import UPGRADING
from kaito.runtime import DEPLOYMENTS, SERVICES, STATEFUL_SETS, Key, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Lister, Manifest, Resource

_FIXED = {
    DEPLOYMENTS.kind: ("selector",),
    STATEFUL_SETS.kind: ("selector", "serviceName", "podManagementPolicy"),
}
"""Fields of the specification that the API server lets nobody change."""


class InferenceStep:
    """Serves the preset, or runs the user's template."""

    condition: ClassVar[str] = INFERENCE_READY
    pending: ClassVar[str] = "WorkspaceInferenceStatusPending"
    failed: ClassVar[str] = "WorkspaceInferenceStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        wanted, services = desired_workload(ctx), desired_services(ctx)
        if (waiting := await self._clear(ctx, wanted, services)) is not None:
            return waiting
        for service in services:
            found = await ensure(
                ctx, service.resource, service.lister, service.manifest, pending=self.pending, failed=self.failed
            )
            if not isinstance(found, dict):
                return found
        found = await self._workload(ctx, wanted)
        return self._judge(ctx, found) if isinstance(found, dict) else found

    async def _clear(self, ctx: WorkspaceContext, wanted: Wanted, services: list[Wanted]) -> Wait | None:
        """Delete the Workspace's workload of another kind, and the Service that only such a one needs."""
        other = STATEFUL_SETS if wanted.resource == DEPLOYMENTS else DEPLOYMENTS
        lister = ctx.caches.stateful_sets if wanted.resource == DEPLOYMENTS else ctx.caches.deployments
        if await self._remove(ctx, other, lister, ctx.name):
            return Wait(self.pending, f"replacing {other.kind} {ctx.name} by a {wanted.resource.kind}")
        if len(services) == 1:
            await self._remove(ctx, SERVICES, ctx.caches.services, headless_name(ctx.workspace))
        return None

    async def _remove(
        self, ctx: WorkspaceContext, resource: Resource[Manifest], lister: Lister[Manifest], name: str
    ) -> bool:
        """Ask for the deletion of an object of the Workspace's own; whether there is one."""
        live = lister.get(name, ctx.namespace)
        controller = controller_of(live) if live is not None else None
        if live is None or controller is None or controller.get("uid") != ctx.workspace.metadata.uid:
            return False
        if not live["metadata"].get("deletionTimestamp"):
            # Pods go before their workload, so that the next one finds its nodes free.
            how = "Background" if resource == SERVICES else "Foreground"
            try:
                await ctx.client.delete(resource, name, ctx.namespace, uid=live["metadata"]["uid"], propagation=how)
            except NotFound:
                return False
            ctx.emit("Normal", f"{resource.kind}Deleted", f"asked for the deletion of {resource.kind} {name}")
        return True

    async def _workload(self, ctx: WorkspaceContext, wanted: Wanted) -> Manifest | Wait | Fail:
        desired = with_rendered(wanted.manifest)
        found = await find_or_create(
            ctx, wanted.resource, wanted.lister, desired, pending=self.pending, failed=self.failed
        )
        if not isinstance(found, tuple):
            return found
        live, created = found
        if created:
            ctx.upgrades.settle(live, list(differing(desired["spec"], live["spec"], "spec")))
            return live
        rollout = self._plan(ctx, live, wanted.manifest)
        ctx.outdated = rollout.outdated
        if not rollout.patch or ctx.upgrades.is_settled(live, rollout):
            return live
        changes: dict[str, Any] = rollout.patch.get("spec") or {}
        if any(field in changes for field in _FIXED[wanted.resource.kind]):
            await self._remove(ctx, wanted.resource, wanted.lister, ctx.name)
            return Wait(self.pending, f"making {wanted.resource.kind} {ctx.name} anew: what differs cannot be changed")
        patched: Manifest = await ctx.client.patch(
            wanted.resource, ctx.name, {**rollout.patch}, namespace=ctx.namespace
        )
        self._tell(ctx, wanted, rollout)
        if rollout.undone:
            still = set(differing(desired["spec"], patched["spec"], "spec"))
            ctx.upgrades.settle(patched, [path for path in rollout.undone if path in still])
        return patched

    def _plan(self, ctx: WorkspaceContext, live: Manifest, desired: Manifest) -> Rollout:
        key = Key(ctx.namespace, ctx.name)
        keep_images = ctx.upgrades.policy == "never"
        rollout = plan(live, desired, upgrade=False, keep_images=keep_images)
        if rollout.outdated and is_ready(live, ctx.target) and ctx.upgrades.may_start(key, _upgrading(ctx)):
            return plan(live, desired, upgrade=True)
        return rollout

    def _tell(self, ctx: WorkspaceContext, wanted: Wanted, rollout: Rollout) -> None:
        what = f"{wanted.resource.kind} {ctx.name}"
        for path in rollout.undone[:3]:
            ctx.emit(
                "Warning",
                "EditUndone",
                f"put {path} of {what} back: change {whose(ctx.workspace, path)} instead",
            )
        if rollout.changed:
            ctx.emit("Normal", f"{wanted.resource.kind}Updated", f"updated {what} to revision {ctx.revision}")

    def _judge(self, ctx: WorkspaceContext, workload: Manifest) -> Outcome:
        kind, wanted = workload["kind"], ctx.target
        status = workload.get("status") or {}
        if is_ready(workload, wanted):
            ctx.upgrades.finished_if_current(Key(ctx.namespace, ctx.name), outdated=ctx.outdated)
            hint = f"; a newer operator would make it differently: annotate {labels.UPGRADE} to roll that out"
            message = "Inference has been deployed successfully"
            return Proceed("WorkspaceInferenceStatusSuccess", f"{message}{hint if ctx.outdated else ''}")
        observed = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
        counted = f"{ready_replicas(status) if observed else 0} of {wanted} replicas are ready"
        pods = ctx.caches.pods.by_label(labels.WORKSPACE, ctx.name, ctx.namespace)
        problem = worst_problem(ctx.caches.pods.decoded(pods))
        if problem is not None and problem.failing:
            return Fail(problem.reason, cut(f"{counted}: {problem}", 1024))
        if observed:
            for type_, status_ in (("Progressing", "False"), ("ReplicaFailure", "True")):
                for condition in status.get("conditions") or ():
                    if condition["type"] == type_ and condition["status"] == status_:
                        why = f"{condition.get('reason')}: {condition.get('message')}"
                        return Fail(self.failed, cut(f"{kind.lower()} {ctx.name} is not progressing: {why}", 1024))
        if problem is None:
            return Wait(self.pending, counted)
        return Wait(problem.reason or self.pending, cut(f"{counted}: {problem}", 1024))


def _upgrading(ctx: WorkspaceContext) -> set[Key]:
    found = (lister.by_index(UPGRADING, "") for lister in (ctx.caches.deployments, ctx.caches.stateful_sets))
    return {stored.key for each in found for stored in each}
