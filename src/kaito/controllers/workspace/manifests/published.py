"""Pods of the published preset images, which bring the model and its server."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kaito.api.validation.configmaps import SERVER_PORT
from kaito.controllers.workspace.manifests.pod import (
    SHARED_MEMORY,
    Rendering,
    adapters_of,
    affinity,
    flags,
    gpu_resources,
    secrets,
    tolerations,
)
from kaito.controllers.workspace.manifests.service import TORCH_PORT, headless_name

if TYPE_CHECKING:
    from kaito.api.workspace import PresetSpec, Workspace
    from kaito.models import Preset

_ACCELERATE = {"num_processes": "1", "num_machines": "1", "machine_rank": "0", "gpu_ids": "all"}
_TORCHRUN = {
    "nnodes": "1",
    "nproc_per_node": "1",
    "node_rank": "0",
    "master_addr": "localhost",
    "master_port": str(TORCH_PORT),
}
_RENDEZVOUS = {
    "max_restarts": "3",
    "rdzv_id": "rdzv_id",
    "rdzv_backend": "c10d",
    "rdzv_endpoint": f"localhost:{TORCH_PORT}",
}
_RANK = "$(echo $HOSTNAME | grep -o '[^-]*$')"
"""The ordinal of a StatefulSet's pod, in the shell."""

_LIVENESS_DELAY, _READINESS_DELAY = 600, 30


def published_pod(workspace: Workspace, spec: PresetSpec, preset: Preset, rendering: Rendering) -> dict[str, Any]:
    """The pod spec of the image that serves ``preset``: the published one, or the user's own."""
    adapters = adapters_of(workspace, rendering.image_of("tuning"))
    options, private = spec.preset_options, spec.access_mode == "private"
    shared = rendering.nodes > 1
    volumes = [SHARED_MEMORY[0]] if shared else []
    mounts = [SHARED_MEMORY[1]] if shared else []
    return {
        "affinity": affinity(workspace),
        "imagePullSecrets": secrets(options.image_pull_secrets if private else (), adapters.secrets),
        "initContainers": adapters.containers or None,
        "containers": [
            {
                "name": workspace.metadata.name,
                "image": options.image if private else preset.image(rendering.registry),
                "command": ["/bin/sh", "-c", launch_command(workspace, preset, rendering)],
                "env": adapters.environment or None,
                "resources": gpu_resources(rendering.gpus),
                "ports": [{"containerPort": SERVER_PORT}],
                "livenessProbe": _probe(_LIVENESS_DELAY),
                "readinessProbe": _probe(_READINESS_DELAY),
                "volumeMounts": [*mounts, *adapters.mounts] or None,
            }
        ],
        "tolerations": tolerations(),
        "volumes": [*volumes, *adapters.volumes] or None,
    }


def launch_command(workspace: Workspace, preset: Preset, rendering: Rendering) -> str:
    """The shell command that starts the model server.

    The section ``transformers`` of the Workspace's configuration stands above the preset's own parameters.
    """
    given = rendering.config.get("transformers")
    parameters = {**preset.parameters, **(given if isinstance(given, Mapping) else {})}
    if preset.launcher == "accelerate":
        launcher, words = "accelerate launch", flags(_ACCELERATE)
    else:
        launcher = "cd /workspace/llama/llama-2 && torchrun"
        words = _torchrun(workspace, preset, rendering.nodes)
    return " ".join([launcher, *words, "inference_api.py", *map(_quoted, flags(parameters))])


def _torchrun(workspace: Workspace, preset: Preset, nodes: int) -> list[str]:
    """Flags of torchrun: a process for each share of the model, on ``nodes`` nodes."""
    launch, rendezvous = dict(_TORCHRUN), dict(_RENDEZVOUS)
    if preset.distributed:
        first = (
            f"{workspace.metadata.name}-0.{headless_name(workspace)}.{workspace.metadata.namespace}.svc.cluster.local"
        )
        launch |= {"nnodes": str(nodes), "nproc_per_node": str(preset.world_size // nodes)}
        if nodes > 1:
            launch |= {"node_rank": _RANK, "master_addr": first}
        rendezvous |= {"rdzv_id": "job", "rdzv_endpoint": f"{first}:{TORCH_PORT}"}
    return [*flags(launch), *flags(rendezvous)]


def _quoted(flag: str) -> str:
    """A flag for the shell; what needs no quotes is left as it is."""
    return shlex.quote(flag)


def _probe(initial_delay: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/healthz", "port": SERVER_PORT},
        "initialDelaySeconds": initial_delay,
        "periodSeconds": 10,
    }
