"""The tuning steps: a Job with its configuration and its Service, and what has become of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.workspace import JOB_STARTED
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.controllers.workspace.apply import ensure, find_or_create, not_ours
from kaito.controllers.workspace.desired import desired_services, desired_workload
from kaito.controllers.workspace.orders import cut
from kaito.controllers.workspace.pods import worst_problem
from kaito.runtime import CONFIG_MAPS, AlreadyExists, Conflict, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Manifest


class TuningStep:
    """Runs the Job of the current revision; one of an earlier revision goes first."""

    condition: ClassVar[str] = JOB_STARTED
    pending: ClassVar[str] = "WorkspaceTuningJobStatusPending"
    failed: ClassVar[str] = "WorkspaceTuningJobStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        for service in desired_services(ctx):
            made = await ensure(
                ctx, service.resource, service.lister, service.manifest, pending=self.pending, failed=self.failed
            )
            if not isinstance(made, dict):
                return made
        job = await self._job(ctx)
        return self._judge(ctx, job) if isinstance(job, dict) else job

    async def _job(self, ctx: WorkspaceContext) -> Manifest | Wait | Fail:
        wanted = desired_workload(ctx)
        if (
            wanted.lister.get(wanted.name, ctx.namespace) is None
            and (problem := await self._configure(ctx)) is not None
        ):
            return problem
        found = await find_or_create(
            ctx, wanted.resource, wanted.lister, wanted.manifest, pending=self.pending, failed=self.failed
        )
        if not isinstance(found, tuple):
            return found
        live, _ = found
        if is_current(ctx, live):
            return live
        try:
            await ctx.client.delete(
                wanted.resource, wanted.name, ctx.namespace, uid=live["metadata"]["uid"], propagation="Foreground"
            )
        except (NotFound, Conflict):
            return Wait(self.pending, f"waiting for an earlier Job {wanted.name} to be deleted", requeue_after=1.0)
        ctx.emit("Normal", "JobDeleted", f"deleted Job {wanted.name} of an earlier revision")
        return Wait(self.pending, f"waiting for an earlier Job {wanted.name} to be deleted")

    async def _configure(self, ctx: WorkspaceContext) -> Wait | Fail | None:
        """The ConfigMap with the standard settings, which the Job reads when it starts."""
        manifest = ctx.config_map()
        if manifest is None:
            return None
        name = manifest["metadata"]["name"]
        try:
            await ctx.client.create(CONFIG_MAPS, manifest, namespace=ctx.namespace)
        except AlreadyExists:
            live = await ctx.client.get(CONFIG_MAPS, name, ctx.namespace)
            obstacle = not_ours(ctx.workspace, live, f"ConfigMap {name}", pending=self.pending, failed=self.failed)
            return obstacle
        return None

    def _judge(self, ctx: WorkspaceContext, job: Manifest) -> Outcome:
        status = job.get("status") or {}
        if has_failed(job):
            pods = ctx.caches.pods.by_label(labels.WORKSPACE, ctx.name, ctx.namespace)
            problem = worst_problem(ctx.caches.pods.decoded(pods))
            why = f": {problem}" if problem is not None else ""
            reason = problem.reason if problem is not None and problem.failing else self.failed
            message = (
                f"job {ctx.name} has failed {status.get('failed', 1)} pods{why}; change the Workspace to try again"
            )
            return Fail(reason or self.failed, cut(message, 1024))
        if status.get("succeeded") or status.get("ready"):
            return Proceed("WorkspaceTuningJobStatusStarted", "Tuning job has started")
        pods = ctx.caches.pods.by_label(labels.WORKSPACE, ctx.name, ctx.namespace)
        problem = worst_problem(ctx.caches.pods.decoded(pods))
        if problem is not None and problem.failing:
            return Fail(problem.reason, cut(str(problem), 1024))
        said = f": {problem}" if problem is not None else ""
        return Wait(
            (problem and problem.reason) or self.pending, cut(f"waiting for the pod of job {ctx.name}{said}", 1024)
        )


class CompletionStep:
    """The Job has come to its end."""

    condition: ClassVar[str] = ""
    pending: ClassVar[str] = "workspacePending"
    failed: ClassVar[str] = "workspaceFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        job = ctx.caches.jobs.get(ctx.name, ctx.namespace) or {}
        status = job.get("status") or {}
        if status.get("succeeded"):
            return Proceed()
        active, ready = status.get("active", 0), status.get("ready", 0)
        return Wait(
            self.pending,
            f"workspace has not completed, tuning job has {active} active pod, {ready} ready pod",
        )


def is_current(ctx: WorkspaceContext, job: Manifest) -> bool:
    """Whether the Job was made for the Workspace as it is; it may have been made by an earlier operator."""
    annotations = job["metadata"].get("annotations") or {}
    if annotations.get(labels.WORKSPACE_REVISION) != str(ctx.revision):
        return False
    template = ((job["spec"].get("template") or {}).get("metadata") or {}).get("annotations") or {}
    if ctx.config_hash != template.get(labels.CONFIG_HASH, "") and labels.INPUTS in annotations:
        return False
    upgrade = ctx.workspace.metadata.annotation(labels.UPGRADE) or ""
    return not upgrade or f"upgrade={upgrade}" in annotations.get(labels.INPUTS, "").split(" ")


def has_failed(job: Manifest) -> bool:
    status = job.get("status") or {}
    return bool(status.get("failed")) or any(
        condition["type"] == "Failed" and condition["status"] == "True" for condition in status.get("conditions") or ()
    )


def has_ended(job: Manifest) -> bool:
    return has_failed(job) or bool((job.get("status") or {}).get("succeeded"))
