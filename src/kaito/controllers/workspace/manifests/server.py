"""Pods of kaito's own model server, which downloads the model's weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kaito.api.validation.configmaps import INFERENCE_KEY, SERVER_PORT
from kaito.controllers.workspace.manifests.pod import (
    CONFIG_DIRECTORY,
    SHARED_MEMORY,
    Rendering,
    adapters_of,
    affinity,
    flags,
    gpu_resources,
    secrets,
    tolerations,
)
from kaito.controllers.workspace.manifests.service import RAY_PORT, headless_name

if TYPE_CHECKING:
    from kaito.api.workspace import PresetSpec, Workspace
    from kaito.models import Preset

WEIGHTS_DIRECTORY = "/workspace/weights"
_BFLOAT16 = 8.0
"""CUDA compute capability from which GPUs compute in bfloat16."""
_PROBE_PERIOD = 10


def server_pod(
    workspace: Workspace, spec: PresetSpec, preset: Preset, engine: str, rendering: Rendering
) -> dict[str, Any]:
    """The pod spec of kaito's own server with ``engine``."""
    adapters, config = (
        adapters_of(workspace, rendering.image_of(engine)),
        workspace.inference.config if workspace.inference else None,
    )
    weights = {"name": "model-weights-volume", "emptyDir": {}}
    volumes = [SHARED_MEMORY[0], weights, *adapters.volumes]
    mounts = [SHARED_MEMORY[1], {"name": weights["name"], "mountPath": WEIGHTS_DIRECTORY}, *adapters.mounts]
    if config:
        volumes.append({"name": "config-volume", "configMap": {"name": config}})
        mounts.append({"name": "config-volume", "mountPath": CONFIG_DIRECTORY})
    many = rendering.nodes > 1 and _spread(rendering)
    environment: list[dict[str, Any]] = [{"name": "HF_HOME", "value": WEIGHTS_DIRECTORY}, *adapters.environment]
    if secret := spec.preset_options.model_access_secret:
        reference = {"name": secret, "key": "HF_TOKEN"}
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    if many:
        index = {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}
        environment.append({"name": "POD_INDEX", "valueFrom": {"fieldRef": index}})
    return {
        "affinity": affinity(workspace),
        "imagePullSecrets": secrets(spec.preset_options.image_pull_secrets, adapters.secrets),
        "initContainers": adapters.containers or None,
        "containers": [
            {
                "name": workspace.metadata.name,
                "image": rendering.image_of(engine),
                "command": ["kaito-inference"],
                "args": server_arguments(workspace, preset, engine, rendering),
                "env": environment,
                "resources": gpu_resources(rendering.gpus),
                "ports": [{"containerPort": SERVER_PORT}],
                "startupProbe": _probe(failures=math.ceil(preset.timeout / _PROBE_PERIOD)),
                "livenessProbe": _probe(failures=3),
                "readinessProbe": _probe(failures=3),
                "volumeMounts": mounts,
            }
        ],
        "tolerations": tolerations(),
        "volumes": volumes,
    }


def server_arguments(workspace: Workspace, preset: Preset, engine: str, rendering: Rendering) -> list[str]:
    """The command line of the server.

    A model that fits on a node is split over the node's GPUs; one that does not is a pipeline over the nodes, which find
    each other at the first pod.
    """
    model = preset.facts.openvino if engine == "openvino" else preset.model
    parameters: dict[str, Any] = {"engine": engine, "model": model, "served-model-name": preset.name}
    if workspace.inference is not None and workspace.inference.config:
        parameters["config"] = f"{CONFIG_DIRECTORY}/{INFERENCE_KEY}"
    if preset.revision and engine == "transformers":
        parameters["revision"] = preset.revision
    if engine == "vllm":
        parameters["tensor-parallel-size"] = max(rendering.gpus, 1)
        if 0 < rendering.capability < _BFLOAT16:
            parameters["dtype"] = "float16"
        if rendering.nodes > 1 and _spread(rendering):
            first = f"{workspace.metadata.name}-0.{headless_name(workspace)}.{workspace.metadata.namespace}.svc.cluster.local"
            parameters |= {
                "pipeline-parallel-size": rendering.nodes,
                "distributed-executor-backend": "ray",
                "ray-address": f"{first}:{RAY_PORT}",
            }
    return flags(parameters)


def _spread(rendering: Rendering) -> bool:
    return rendering.serving is not None and rendering.serving.fit.spread


def _probe(*, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": SERVER_PORT},
        "periodSeconds": _PROBE_PERIOD,
        "failureThreshold": failures,
    }
