"""The inference step: a Service and a Deployment, and the truth about whether they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.workspace import INFERENCE_READY
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.controllers.workspace import nodes
from kaito.controllers.workspace.apply import ensure
from kaito.controllers.workspace.manifests.deployment import build_preset_deployment, build_template_deployment
from kaito.controllers.workspace.manifests.service import build_service
from kaito.controllers.workspace.pods import worst_problem
from kaito.runtime import DEPLOYMENTS, SERVICES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.models import Preset
    from kaito.runtime import Manifest


class InferenceStep:
    """Serves the preset, or runs the user's template."""

    condition: ClassVar[str] = INFERENCE_READY
    pending: ClassVar[str] = "WorkspaceInferenceStatusPending"
    failed: ClassVar[str] = "WorkspaceInferenceStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        inference, preset = ctx.workspace.inference, ctx.preset
        if inference is not None and inference.preset is not None and preset is not None:
            service = await self._ensure(ctx, build_service(ctx.workspace))
            if not isinstance(service, dict):
                return service
            desired = build_preset_deployment(
                ctx.workspace,
                inference.preset,
                preset,
                registry=ctx.settings.registry,
                gpus=gpus_per_replica(ctx, preset),
                revision=ctx.revision,
            )
            deployment = await self._ensure(ctx, desired)
        else:
            deployment = await self._template(ctx)
        return self._judge(ctx, deployment) if isinstance(deployment, dict) else deployment

    async def _ensure(self, ctx: WorkspaceContext, desired: Manifest) -> Manifest | Wait | Fail:
        is_service = desired["kind"] == SERVICES.kind
        resource, lister = (SERVICES, ctx.caches.services) if is_service else (DEPLOYMENTS, ctx.caches.deployments)
        return await ensure(ctx, resource, lister, desired, pending=self.pending, failed=self.failed)

    async def _template(self, ctx: WorkspaceContext) -> Manifest | Wait | Fail:
        """The Deployment of the user's template.

        The API server writes such a template in its own way (defaults, canonical quantities), so it is compared by
        revision, and a new revision replaces it whole.
        """
        inference = ctx.workspace.inference
        template: Mapping[str, Any] = (inference and inference.template) or {}
        desired = build_template_deployment(ctx.workspace, template, revision=ctx.revision)
        live = ctx.caches.deployments.get(ctx.name, ctx.namespace)
        if live is None:
            return await self._ensure(ctx, desired)
        pod_template = desired["spec"].pop("template")
        revisions = [
            (manifest["metadata"].get("annotations") or {}).get(labels.WORKSPACE_REVISION)
            for manifest in (live, desired)
        ]
        owned = await self._ensure(ctx, {**desired, "metadata": {**desired["metadata"], "annotations": {}}})
        if not isinstance(owned, dict) or revisions[0] == revisions[1]:
            return owned
        owned["metadata"].setdefault("annotations", {})[labels.WORKSPACE_REVISION] = revisions[1]
        owned["spec"]["template"] = pod_template
        updated = await ctx.client.update(DEPLOYMENTS, owned)
        ctx.emit("Normal", "DeploymentUpdated", f"updated Deployment {ctx.name} to revision {revisions[1]}")
        return updated

    def _judge(self, ctx: WorkspaceContext, deployment: Manifest) -> Outcome:
        status, wanted = deployment.get("status") or {}, ctx.workspace.resource.count
        observed = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        ready = min(status.get("readyReplicas", 0), status.get("updatedReplicas", 0))
        if observed and ready >= wanted:
            return Proceed("WorkspaceInferenceStatusSuccess", "Inference has been deployed successfully")
        counted = f"{ready if observed else 0} of {wanted} replicas are ready"
        pods = ctx.caches.pods.list(ctx.namespace, labels={labels.WORKSPACE: ctx.name})
        problem = worst_problem(pods)
        if problem is not None and problem.failing:
            return Fail(self.failed, f"{counted}: {problem}")
        if observed:
            for type_, status_ in (("Progressing", "False"), ("ReplicaFailure", "True")):
                for condition in status.get("conditions") or ():
                    if condition["type"] == type_ and condition["status"] == status_:
                        why = f"{condition.get('reason')}: {condition.get('message')}"
                        return Fail(self.failed, f"deployment {ctx.name} is not progressing: {why}")
        return Wait(self.pending, f"{counted}: {problem}" if problem else counted)


def gpus_per_replica(ctx: WorkspaceContext, preset: Preset) -> int:
    """GPUs to ask for: all that the instance type has; for one not in the catalogue, all of the first node."""
    if ctx.sku is not None:
        return ctx.sku.gpus
    return (nodes.gpus(ctx.nodes[0]) if ctx.nodes else 0) or preset.gpus
