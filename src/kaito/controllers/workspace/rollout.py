"""The workload of a Workspace: what it should be now, and what of it was changed by others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace.apply import rendered_of, with_rendered
from kaito.controllers.workspace.manifests.ownership import difference, differing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest

_ANNOTATIONS = (labels.WORKSPACE_REVISION, labels.INPUTS, labels.RENDERED)


@dataclass(frozen=True, slots=True)
class Rollout:
    """What to do with a workload that exists."""

    patch: Mapping[str, Any]
    """Merge patch; empty where everything is as it should be."""
    changed: bool
    """Whether the workload is to be other than before, so that its pods may be replaced."""
    undone: tuple[str, ...] = ()
    """Paths of fields that somebody else has changed, and that are put back."""
    outdated: bool = False
    """Whether this operator would make something else of the Workspace than what runs."""


def plan(live: Manifest, desired: Manifest, *, upgrade: bool, keep_images: bool = False) -> Rollout:
    """How to bring ``live`` to ``desired``.

    Where both were made from the same Workspace on the same nodes, a difference is one of operators, which is only rolled
    out with ``upgrade``; until then the workload is kept as it was written. ``keep_images`` keeps the images of a workload
    whose Workspace has changed.
    """
    annotations = live["metadata"].get("annotations") or {}
    written, spec = rendered_of(live), desired["spec"]
    same_inputs = annotations.get(labels.INPUTS) == desired["metadata"]["annotations"][labels.INPUTS]
    if written is None:
        # Made by an operator that left no record. What runs for the same revision counts as what was written.
        same_revision = annotations.get(labels.WORKSPACE_REVISION) == desired["metadata"]["annotations"].get(
            labels.WORKSPACE_REVISION
        )
        if labels.INPUTS not in annotations and same_revision:
            written, same_inputs = _projection(spec, live["spec"]), True
        else:
            written = {}
    outdated = same_inputs and written != spec
    if outdated and not upgrade:
        target, made = written, True
    else:
        target, made, outdated = spec, False, False
        if keep_images and not same_inputs:
            target = _with_images(spec, written)
    kept = with_rendered({**desired, "spec": target})
    mark = {labels.UPGRADED: "true"} if upgrade else {}
    metadata = {
        "annotations": {key: kept["metadata"]["annotations"][key] for key in _ANNOTATIONS} | mark,
        "labels": desired["metadata"].get("labels") or {},
    }
    patch = difference({"metadata": metadata}, live)
    changes = difference(target, live["spec"], written)
    if changes:
        patch["spec"] = changes
    same = same_inputs and (made or target == written)
    undone = tuple(differing(target, live["spec"], "spec")) if same and changes else ()
    return Rollout(patch, changed=bool(changes) and not same, undone=undone, outdated=outdated)


def is_ready(workload: Manifest, wanted: int) -> bool:
    """Whether ``wanted`` replicas of what was written last are ready."""
    status = workload.get("status") or {}
    observed = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    return bool(observed and ready_replicas(status) >= wanted)


def ready_replicas(status: Mapping[str, Any]) -> int:
    return min(int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0)))


def whose(workspace: Workspace, path: str) -> str:
    """Where a user changes what a field of the workload says."""
    if workspace.inference is not None and workspace.inference.template is not None and ".template" in path:
        if "affinity" in path:
            return "resource.labelSelector or resource.preferredNodes"
        return "inference.template"
    for part, place in _PLACES:
        if part in path:
            return place
    return "the Workspace"


_PLACES = (
    ("replicas", "resource.count, in a new Workspace"),
    ("initContainers", "inference.adapters"),
    (".env", "inference.adapters"),
    ("volume", "inference.adapters"),
    ("imagePullSecrets", "inference.preset.presetOptions.imagePullSecrets"),
    (".image", "inference.preset.presetOptions.image, in a new Workspace"),
    (".command", "the ConfigMap that inference.config names"),
    (".args", "the ConfigMap that inference.config names"),
    ("affinity", "resource.labelSelector or resource.preferredNodes"),
    ("resources", "resource.instanceType, in a new Workspace"),
    ("Probe", "inference.template, in a new Workspace"),
)


def _projection(desired: Any, live: Any) -> Any:
    """What ``live`` says of the fields that ``desired`` has."""
    if isinstance(desired, dict) and isinstance(live, dict):
        return {key: _projection(value, live[key]) for key, value in desired.items() if key in live}
    return live


def _with_images(spec: Any, written: Mapping[str, Any]) -> Any:
    """``spec`` with the images that containers of the same names had."""
    before = {container.get("name"): container.get("image") for container in _containers(written)}
    template = dict(spec["template"])
    pod = dict(template["spec"])
    pod["containers"] = [
        {**container, "image": before.get(container.get("name")) or container.get("image")}
        for container in pod.get("containers") or ()
    ]
    return {**spec, "template": {**template, "spec": pod}}


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return ((spec.get("template") or {}).get("spec") or {}).get("containers") or []
