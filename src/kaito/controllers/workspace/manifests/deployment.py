"""The Deployment of an inference workload: of a preset that fits on one node, or of the user's own pod template."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.workspace import DEFAULT_STRENGTH
from kaito.controllers.workspace.manifests.ownership import controller_reference
from kaito.controllers.workspace.manifests.service import SERVER_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.api.workspace import AdapterSpec, PresetSpec, Workspace
    from kaito.models import Preset
    from kaito.runtime import Manifest

ADAPTER_DIRECTORY = "/mnt/adapter"

_LAUNCHERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "accelerate": (
        "accelerate launch",
        {"num_processes": "1", "num_machines": "1", "machine_rank": "0", "gpu_ids": "all"},
    ),
    "torchrun": (
        "cd /workspace/llama/llama-2 && torchrun",
        {"nnodes": "1", "nproc_per_node": "1", "node_rank": "0", "master_addr": "localhost", "master_port": "29500"},
    ),
}
_RENDEZVOUS: Mapping[str, str] = {
    "max_restarts": "3",
    "rdzv_id": "rdzv_id",
    "rdzv_backend": "c10d",
    "rdzv_endpoint": "localhost:29500",
}
_TOLERATIONS: list[dict[str, str]] = [
    {"key": labels.NVIDIA_GPU, "operator": "Exists", "effect": labels.NO_SCHEDULE},
    {
        "key": labels.SKU_TAINT_KEY,
        "operator": "Equal",
        "value": labels.SKU_TAINT_VALUE,
        "effect": labels.NO_SCHEDULE,
    },
]


def build_preset_deployment(
    workspace: Workspace, spec: PresetSpec, preset: Preset, *, registry: str, gpus: int, revision: int
) -> Manifest:
    """The Deployment that serves ``preset`` with ``gpus`` GPUs in each replica."""
    template = {
        "metadata": {"labels": _selector(workspace)},
        "spec": _preset_pod(workspace, spec, preset, registry=registry, gpus=gpus),
    }
    return _deployment(workspace, template, revision=revision, deadline=preset.timeout)


def build_template_deployment(workspace: Workspace, template: Mapping[str, Any], *, revision: int) -> Manifest:
    """The Deployment of the user's pod template, with the labels, affinity and tolerations that bring it to the nodes."""
    pod = deepcopy(dict(template))
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **_selector(workspace)}
    spec = pod.setdefault("spec", {})
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *deepcopy(_TOLERATIONS)]
    spec["affinity"] = node_affinity(workspace)
    return _deployment(workspace, pod, revision=revision, deadline=None)


def launch_command(preset: Preset) -> str:
    """The shell command that starts the model server. Flags are sorted, so that equal settings give equal pods."""
    base, flags = _LAUNCHERS[preset.launcher]
    words = [base, *_flags(flags)]
    if preset.launcher == "torchrun":
        words += _flags(_RENDEZVOUS)
    return " ".join([*words, "inference_api.py", *_flags(preset.parameters)])


def node_affinity(workspace: Workspace) -> dict[str, Any] | None:
    """Affinity to nodes with the labels of the selector; None, which is no restriction, for an empty selector."""
    selector = workspace.resource.label_selector
    expressions: list[dict[str, Any]] = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in sorted(((selector and selector.match_labels) or {}).items())
    ]
    for term in (selector and selector.match_expressions) or ():
        values = {"values": list(term.values)} if term.values else {}
        expressions.append({"key": term.key, "operator": term.operator, **values})
    if not expressions:
        return None
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": expressions}],
            }
        }
    }


def _selector(workspace: Workspace) -> dict[str, str]:
    return {labels.WORKSPACE: workspace.metadata.name}


def _deployment(workspace: Workspace, template: Mapping[str, Any], *, revision: int, deadline: int | None) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": workspace.metadata.name,
            "namespace": workspace.metadata.namespace,
            "annotations": {labels.WORKSPACE_REVISION: str(revision)},
            "ownerReferences": [controller_reference(workspace)],
        },
        "spec": {
            "replicas": workspace.resource.count,
            "selector": {"matchLabels": _selector(workspace)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            # Images of tens of GB take longer to pull than the 600 s that Kubernetes allows by itself.
            **({"progressDeadlineSeconds": deadline} if deadline is not None else {}),
            "template": template,
        },
    }


def _preset_pod(workspace: Workspace, spec: PresetSpec, preset: Preset, *, registry: str, gpus: int) -> dict[str, Any]:
    adapters = (workspace.inference and workspace.inference.adapters) or ()
    options = spec.preset_options
    private = spec.access_mode == "private"
    secrets = list(options.image_pull_secrets or ()) if private else []
    secrets += [name for adapter in adapters if adapter.source for name in adapter.source.image_pull_secrets or ()]
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    if workspace.resource.count > 1:
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})
    if adapters:
        volumes.append({"name": "adapter-volume", "emptyDir": {}})
        mounts.append({"name": "adapter-volume", "mountPath": ADAPTER_DIRECTORY})
    devices = {labels.NVIDIA_GPU: str(gpus)}
    return {
        "affinity": node_affinity(workspace),
        "imagePullSecrets": [{"name": name} for name in dict.fromkeys(secrets)] or None,
        "initContainers": [_adapter_container(adapter, mounts) for adapter in adapters] or None,
        "containers": [
            {
                "name": workspace.metadata.name,
                "image": options.image if private else preset.image(registry),
                "command": ["/bin/sh", "-c", launch_command(preset)],
                "env": [_adapter_strength(adapter) for adapter in adapters] or None,
                "resources": {"requests": devices, "limits": dict(devices)},
                "ports": [{"containerPort": SERVER_PORT}],
                "livenessProbe": _probe(initial_delay=600),
                "readinessProbe": _probe(initial_delay=30),
                "volumeMounts": mounts or None,
            }
        ],
        "tolerations": deepcopy(_TOLERATIONS),
        "volumes": volumes or None,
    }


def _probe(*, initial_delay: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/healthz", "port": SERVER_PORT},
        "initialDelaySeconds": initial_delay,
        "periodSeconds": 10,
    }


def _adapter_container(adapter: AdapterSpec, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """An init container of the adapter's own image, which copies the adapter to where the model server looks."""
    name = _adapter_name(adapter)
    target = f"{ADAPTER_DIRECTORY}/{name}"
    return {
        "name": name,
        "image": adapter.source.image if adapter.source else None,
        "imagePullPolicy": "Always",
        "command": ["/bin/sh", "-c", f"mkdir -p {target} && cp -r /data/. {target}"],
        "volumeMounts": deepcopy(mounts),
    }


def _adapter_strength(adapter: AdapterSpec) -> dict[str, str]:
    return {"name": _adapter_name(adapter), "value": adapter.strength or DEFAULT_STRENGTH}


def _adapter_name(adapter: AdapterSpec) -> str:
    return (adapter.source and adapter.source.name) or ""


def _flags(parameters: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" if value else f"--{name}" for name, value in sorted(parameters.items())]
