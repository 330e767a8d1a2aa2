"""The workload of a Workspace that serves: a Deployment, or a StatefulSet where one model is spread over several nodes."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace.manifests.ownership import controller_reference, present
from kaito.controllers.workspace.manifests.pod import Rendering, affinity, tolerations, workspace_labels
from kaito.controllers.workspace.manifests.published import published_pod
from kaito.controllers.workspace.manifests.server import server_pod
from kaito.controllers.workspace.manifests.service import build_headless_service, build_service, headless_name
from kaito.models import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest


def is_spread(rendering: Rendering) -> bool:
    """Whether one model is shared by all the pods."""
    return rendering.serving is not None and rendering.serving.fit.spread


def build_workload(workspace: Workspace, rendering: Rendering) -> Manifest:
    """The Deployment or StatefulSet, without the fields that kaito leaves to others."""
    inference = workspace.inference
    assert inference is not None, "a Workspace that is served"
    deadline = None
    annotations: dict[str, str] = {}
    if inference.preset is not None and rendering.preset is not None:
        engine = rendering.serving.engine if rendering.serving is not None else PUBLISHED
        spec = (
            published_pod(workspace, inference.preset, rendering.preset, rendering)
            if engine == PUBLISHED
            else server_pod(workspace, inference.preset, rendering.preset, engine, rendering)
        )
        deadline = rendering.preset.timeout
        if rendering.config_hash:
            annotations[labels.CONFIG_HASH] = rendering.config_hash
        pod_labels = workspace_labels(workspace) | ({} if engine == PUBLISHED else {labels.RUNTIME: engine})
        template: dict[str, Any] = {"metadata": {"labels": pod_labels}, "spec": spec}
        if annotations:
            template["metadata"]["annotations"] = annotations
    else:
        template = _own_template(workspace, inference.template or {})
    build = _stateful_set if is_spread(rendering) else _deployment
    manifest: Manifest = present(build(workspace, template, rendering, deadline))
    return manifest


def build_services(workspace: Workspace, rendering: Rendering) -> list[Manifest]:
    spread = is_spread(rendering)
    services = [build_service(workspace, spread=spread)]
    return [*services, build_headless_service(workspace)] if spread else services


def _own_template(workspace: Workspace, given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's pod template, with what brings its pods to the nodes of the Workspace beside what is in it."""
    template = deepcopy(dict(given))
    metadata = template.setdefault("metadata", {})
    metadata.pop("creationTimestamp", None)
    metadata["labels"] = {**(metadata.get("labels") or {}), **workspace_labels(workspace)}
    spec = template.setdefault("spec", {})
    spec["tolerations"] = tolerations(spec.get("tolerations") or ())
    spec["affinity"] = affinity(workspace, spec.get("affinity"))
    return template


def _deployment(
    workspace: Workspace, template: Mapping[str, Any], rendering: Rendering, deadline: int | None
) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(workspace, rendering),
        "spec": {
            "replicas": rendering.nodes,
            "selector": {"matchLabels": workspace_labels(workspace)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            # Images of tens of GB take longer to pull than the 600 s that Kubernetes allows by itself.
            "progressDeadlineSeconds": deadline,
            "template": template,
        },
    }


def _stateful_set(
    workspace: Workspace, template: Mapping[str, Any], rendering: Rendering, _deadline: int | None
) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _metadata(workspace, rendering),
        "spec": {
            "replicas": rendering.nodes,
            "selector": {"matchLabels": workspace_labels(workspace)},
            "podManagementPolicy": "Parallel",
            "serviceName": headless_name(workspace),
            "template": template,
        },
    }


def _metadata(workspace: Workspace, rendering: Rendering) -> dict[str, Any]:
    return {
        "name": workspace.metadata.name,
        "namespace": workspace.metadata.namespace,
        "labels": workspace_labels(workspace),
        "annotations": {
            labels.WORKSPACE_REVISION: str(rendering.revision),
            labels.INPUTS: inputs(workspace, rendering),
        },
        "ownerReferences": [controller_reference(workspace)],
    }


def inputs(workspace: Workspace, rendering: Rendering) -> str:
    """What decides how the workload looks, apart from the version and the settings of the operator, which do not roll it
    out by themselves."""
    engine = rendering.serving.engine if rendering.serving is not None else ""
    parts = {
        "revision": rendering.revision,
        "engine": engine,
        "nodes": rendering.nodes,
        "gpus": rendering.gpus,
        "config": rendering.config_hash,
        "upgrade": workspace.metadata.annotation(labels.UPGRADE) or "",
    }
    return " ".join(f"{name}={value}" for name, value in parts.items() if value not in ("", 0))
