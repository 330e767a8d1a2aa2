"""The Job that tunes a model, with its input and its output."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from kaito.api import labels
from kaito.api.validation.configmaps import SERVER_PORT, TRAINING_KEY, output_directory
from kaito.controllers.workspace.manifests.ownership import controller_reference, present
from kaito.controllers.workspace.manifests.pod import (
    CONFIG_DIRECTORY,
    LOGINS,
    SHARED_MEMORY,
    Rendering,
    affinity,
    flags,
    gpu_resources,
    pulling,
    secrets,
    tolerations,
    workspace_labels,
)
from kaito.controllers.workspace.manifests.scripts import DOWNLOAD, EXTRACT, PUSH, TRAIN
from kaito.controllers.workspace.manifests.workload import inputs

if TYPE_CHECKING:
    from kaito.api.workspace import DataSource, PresetSpec, TuningSpec, Workspace
    from kaito.models import Preset
    from kaito.runtime import Manifest

DATA_DIRECTORY = "/mnt/data"
DOWNLOADER_IMAGE = "docker.io/curlimages/curl:8.10.1"
PUSHER_IMAGE = "ghcr.io/oras-project/oras:v1.2.2"
PUSHER = "pusher"
"""Name of the container that pushes the result."""

_PHI_MODULES = "k_proj,q_proj,v_proj,o_proj,gate_proj,down_proj,up_proj"

STANDARD_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    method: {
        "ModelConfig": {"torch_dtype": "bfloat16", "local_files_only": True, "device_map": "auto"},
        "QuantizationConfig": quantization,
        "LoraConfig": {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0},
        "TrainingArguments": {
            "output_dir": "/mnt/results",
            "ddp_find_unused_parameters": False,
            "save_strategy": "epoch",
            "per_device_train_batch_size": 1,
        },
        "DataCollator": {"mlm": True},
        "DatasetConfig": {"shuffle_dataset": True, "train_test_split": 1},
    }
    for method, quantization in {
        "lora": {"load_in_4bit": False},
        "qlora": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_use_double_quant": True,
        },
    }.items()
}
"""The ``training_config`` of each method, for a Workspace that names none."""


def config_name(workspace: Workspace, tuning: TuningSpec) -> str:
    """The ConfigMap that the Job reads."""
    return tuning.config or f"{workspace.metadata.name}-{tuning.method.lower()}-params"


def build_config(workspace: Workspace, tuning: TuningSpec) -> Manifest:
    """The ConfigMap with the method's standard settings."""
    config = {"training_config": deepcopy(dict(STANDARD_CONFIGS[tuning.method.lower()]))}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_name(workspace, tuning),
            "namespace": workspace.metadata.namespace,
            "labels": workspace_labels(workspace),
            "ownerReferences": [controller_reference(workspace)],
        },
        "data": {TRAINING_KEY: yaml.safe_dump(config, sort_keys=False)},
    }


@dataclass(slots=True)
class _Pod:
    """What the parts of the Job put into its pod."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    init: list[dict[str, Any]] = field(default_factory=list)
    sidecars: list[dict[str, Any]] = field(default_factory=list)


def build_job(
    workspace: Workspace, tuning: TuningSpec, spec: PresetSpec, preset: Preset, rendering: Rendering
) -> Manifest:
    """The Job: download, train, push. ``rendering.config`` is the ``training_config`` that it reads."""
    output = output_directory(rendering.config)
    pod = _Pod([SHARED_MEMORY[0]], [SHARED_MEMORY[1]])
    _mount(pod, "config-volume", CONFIG_DIRECTORY, {"configMap": {"name": config_name(workspace, tuning)}})
    own = "" if preset.published or spec.access_mode == "private" else rendering.image_of("tuning")
    _add_output(pod, tuning, preset, output, pushes=bool(own))
    if tuning.input is not None:
        _add_input(pod, tuning.input, rendering.image_of("tuning"))
    annotations = {labels.CONFIG_HASH: rendering.config_hash} if rendering.config_hash else None
    pod_labels = workspace_labels(workspace) | ({labels.RUNTIME: "tuning"} if own else {})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": workspace.metadata.name,
            "namespace": workspace.metadata.namespace,
            "labels": workspace_labels(workspace),
            "annotations": {
                labels.WORKSPACE_REVISION: str(rendering.revision),
                labels.INPUTS: inputs(workspace, rendering),
            },
            "ownerReferences": [controller_reference(workspace)],
        },
        "spec": {
            # What a training has learned is lost with its pod: a second try is the user's to ask for.
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": pod_labels, "annotations": annotations},
                "spec": {
                    "affinity": affinity(workspace),
                    "tolerations": tolerations([{"key": "gpu", "operator": "Equal", "effect": labels.NO_SCHEDULE}]),
                    "restartPolicy": "Never",
                    "shareProcessNamespace": bool(pod.sidecars) or None,
                    "imagePullSecrets": _pull_secrets(tuning, spec),
                    "initContainers": pod.init or None,
                    "containers": [
                        _trainer(workspace, tuning, spec, preset, rendering, pod, output),
                        *pod.sidecars,
                    ],
                    "volumes": pod.volumes,
                },
            },
        },
    }
    manifest: Manifest = present(job)
    return manifest


def _trainer(
    workspace: Workspace,
    tuning: TuningSpec,
    spec: PresetSpec,
    preset: Preset,
    rendering: Rendering,
    pod: _Pod,
    output: str,
) -> dict[str, Any]:
    environment: list[dict[str, Any]] = [{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]
    if preset.name.startswith("phi-3"):
        environment.insert(0, {"name": "DEFAULT_TARGET_MODULES", "value": _PHI_MODULES})
    private = spec.access_mode == "private"
    launch = _launch(preset, rendering.processes)
    command = ["/bin/sh", "-c", TRAIN.format(output=shlex.quote(output), launch=launch)]
    if private:
        image = spec.preset_options.image
    elif preset.published:
        image = preset.image(rendering.registry)
    else:
        image, command = rendering.image_of("tuning"), ["kaito-tuning", "train", f"--model={preset.model}"]
        if tuning.output is not None and tuning.output.image:
            command.append(f"--push={tuning.output.image}")
            if tuning.output.image_push_secret:
                command.append(f"--push-config={LOGINS}/push")
        if secret := spec.preset_options.model_access_secret:
            reference = {"name": secret, "key": "HF_TOKEN"}
            environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return {
        "name": workspace.metadata.name,
        "image": image,
        "command": command,
        "env": environment,
        "resources": gpu_resources(rendering.gpus),
        "ports": [{"containerPort": SERVER_PORT}],
        "volumeMounts": list(pod.mounts),
    }


def _launch(preset: Preset, processes: int) -> str:
    parameters = dict(preset.tuning.parameters) if preset.tuning is not None else {}
    words = [f"--num_processes={processes}", *flags(parameters)]
    return " ".join(
        [
            "cd /workspace/tfs && python3 metrics_server.py & cd /workspace/tfs && accelerate launch",
            *words,
            "fine_tuning.py",
        ]
    )


def _add_input(pod: _Pod, source: DataSource, puller: str) -> None:
    if source.volume_source is not None:
        _mount(pod, "data-volume", DATA_DIRECTORY, source.volume_source)
        return
    mount = _mount(pod, "data-volume", DATA_DIRECTORY, {"emptyDir": {}})
    if source.image is not None and puller:
        given = source.image_pull_secrets or ()
        volumes, container = pulling("data-extractor", puller, source.image, DATA_DIRECTORY, mount, given)
        pod.volumes += volumes
        pod.init.append(container)
        return
    if source.image is not None:
        pod.init.append(
            {
                "name": "data-extractor",
                "image": source.image,
                "command": ["/bin/sh", "-c", EXTRACT.format(data=DATA_DIRECTORY)],
                "volumeMounts": [mount],
            }
        )
        return
    pod.init.append(
        {
            "name": "data-downloader",
            "image": puller or DOWNLOADER_IMAGE,
            "command": ["kaito-tuning", "download"] if puller else ["/bin/sh", "-c", DOWNLOAD],
            "env": [
                {"name": "DATA_URLS", "value": " ".join(source.urls or ())},
                {"name": "DATA_VOLUME_PATH", "value": DATA_DIRECTORY},
            ],
            "volumeMounts": [mount],
        }
    )


def _add_output(pod: _Pod, tuning: TuningSpec, preset: Preset, output: str, *, pushes: bool) -> None:
    """Where the result goes; ``pushes``, if the trainer pushes it itself."""
    destination = tuning.output
    if destination is not None and destination.volume_source is not None:
        _mount(pod, "results-volume", output, destination.volume_source)
        return
    results = _mount(pod, "results-volume", output, {"emptyDir": {}})
    if destination is None or not destination.image:
        return
    mounts = [results]
    if destination.image_push_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        pod.volumes.append(
            {"name": "docker-config", "secret": {"secretName": destination.image_push_secret, "items": items}}
        )
        login = {
            "name": "docker-config",
            "mountPath": f"{LOGINS}/push" if pushes else "/root/.docker",
            "readOnly": True,
        }
        (pod.mounts if pushes else mounts).append(login)
    if pushes:
        return
    pod.sidecars.append(
        {
            "name": PUSHER,
            "image": PUSHER_IMAGE,
            "command": ["/bin/sh", "-c", PUSH],
            "env": [
                {"name": "RESULTS", "value": output},
                {"name": "IMAGE", "value": destination.image},
                {"name": "MODEL", "value": preset.name},
                {"name": "HOME", "value": "/root"},
            ],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts,
        }
    )


def _mount(pod: _Pod, name: str, path: str, source: Mapping[str, Any]) -> dict[str, Any]:
    mount = {"name": name, "mountPath": path}
    pod.volumes.append({"name": name, **deepcopy(dict(source))})
    pod.mounts.append(mount)
    return mount


def _pull_secrets(tuning: TuningSpec, spec: PresetSpec) -> list[dict[str, str]] | None:
    private = spec.preset_options.image_pull_secrets if spec.access_mode == "private" else ()
    given = tuning.input.image_pull_secrets if tuning.input is not None else ()
    pushed = tuning.output.image_push_secret if tuning.output is not None else None
    return secrets(private, given, [pushed] if pushed else ())
