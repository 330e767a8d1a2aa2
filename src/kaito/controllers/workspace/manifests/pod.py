"""What the pods of a Workspace have in common: where they run, and the adapters that they load."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.workspace import DEFAULT_STRENGTH
from kaito.controllers.workspace.claims import claim_key

if TYPE_CHECKING:
    from kaito.api.workspace import AdapterSpec, Workspace
    from kaito.models import Preset, Serving

ADAPTER_DIRECTORY = "/mnt/adapter"
CONFIG_DIRECTORY = "/mnt/config"
LOGINS = "/run/kaito/logins"
"""Folder of the registries' logins, one folder for each pull secret."""
SHARED_MEMORY = ({"name": "dshm", "emptyDir": {"medium": "Memory"}}, {"name": "dshm", "mountPath": "/dev/shm"})

TOLERATIONS: tuple[Mapping[str, str], ...] = (
    {"key": labels.NVIDIA_GPU, "operator": "Exists", "effect": labels.NO_SCHEDULE},
    {
        "key": labels.SKU_TAINT_KEY,
        "operator": "Equal",
        "value": labels.SKU_TAINT_VALUE,
        "effect": labels.NO_SCHEDULE,
    },
    {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": labels.NO_SCHEDULE,
    },
)


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a workload is made from beside the Workspace itself."""

    revision: int
    registry: str
    """Of the published images."""
    own_images: Mapping[str, str] = field(default_factory=dict)
    """Images of kaito's own model server by engine, and of its ``tuning``; empty for none."""
    preset: Preset | None = None
    serving: Serving | None = None
    nodes: int = 1
    gpus: int = 0
    """GPUs of a pod."""
    capability: float = 0.0
    """CUDA compute capability of the GPUs; 0 where it is not known."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Content of the ConfigMap that the Workspace names."""
    config_hash: str = ""
    processes: int = 1
    """Of a tuning job."""

    def image_of(self, engine: str) -> str:
        """The image of kaito's own for ``engine``, or ``tuning``; all of them have ``kaito oci``. Empty where there is none."""
        return self.own_images.get(engine, "")


def workspace_labels(workspace: Workspace) -> dict[str, str]:
    """The labels of a Workspace's pods, and the selector of its workload."""
    return {labels.WORKSPACE: workspace.metadata.name}


def affinity(workspace: Workspace, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Affinity to the Nodes that the Workspace holds, combined with the user's ``own``."""
    key = claim_key(workspace.metadata.namespace, workspace.metadata.name)
    claimed = {"key": key, "operator": "Exists"}
    combined: dict[str, Any] = deepcopy(dict(own or {}))
    node_affinity = combined.setdefault("nodeAffinity", {})
    required = node_affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    # The terms are alternatives: each of them has to ask for the claim.
    required["nodeSelectorTerms"] = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or ()), claimed]} for term in terms
    ]
    return combined


def tolerations(own: Iterable[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """The user's ``own`` tolerations and kaito's, each once."""
    listed: list[dict[str, Any]] = [dict(toleration) for toleration in own]
    return listed + [dict(toleration) for toleration in TOLERATIONS if toleration not in listed]


def secrets(*groups: Iterable[str] | None) -> list[dict[str, str]] | None:
    """Pull secrets, each once, in their order; None for none."""
    names = dict.fromkeys(name for group in groups for name in group or ())
    return [{"name": name} for name in names] or None


@dataclass(slots=True)
class Adapters:
    """What the adapters of a Workspace add to a pod."""

    containers: list[dict[str, Any]] = field(default_factory=list)
    environment: list[dict[str, str]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)


def adapters_of(workspace: Workspace, puller: str = "") -> Adapters:
    """Each adapter lies in ``/mnt/adapter/<name>``; its strength is in the environment, under its name.

    What an adapter's image holds in ``/data`` is brought by ``puller``, an image with ``kaito oci``; without one the adapter's
    image is run once to copy it, which needs a shell in it. A volume is mounted.
    """
    found = Adapters()
    listed = (workspace.inference and workspace.inference.adapters) or ()
    if any(adapter.source and adapter.source.image for adapter in listed):
        found.volumes.append({"name": "adapter-volume", "emptyDir": {}})
        found.mounts.append({"name": "adapter-volume", "mountPath": ADAPTER_DIRECTORY})
    for index, adapter in enumerate(listed):
        name, source = _adapter_name(adapter), adapter.source
        found.environment.append({"name": name, "value": adapter.strength or DEFAULT_STRENGTH})
        if source is None:
            continue
        if source.volume_source is not None:
            found.volumes.append({"name": f"adapter-{index}", **deepcopy(source.volume_source)})
            found.mounts.append(
                {"name": f"adapter-{index}", "mountPath": f"{ADAPTER_DIRECTORY}/{name}", "readOnly": True}
            )
            continue
        mount = {"name": "adapter-volume", "mountPath": ADAPTER_DIRECTORY}
        given, directory = source.image_pull_secrets or (), f"{ADAPTER_DIRECTORY}/{name}"
        if puller:
            volumes, container = pulling(name, puller, source.image or "", directory, mount, given)
            found.containers.append(container)
            found.volumes += (volume for volume in volumes if volume not in found.volumes)
            continue
        target = shlex.quote(directory)
        found.containers.append(
            {
                "name": name,
                "image": source.image,
                "imagePullPolicy": "Always",
                "command": ["/bin/sh", "-c", f"mkdir -p {target} && cp -r /data/. {target}"],
                "volumeMounts": [mount],
            }
        )
        found.secrets += given
    return found


def pulling(
    name: str, puller: str, image: str, directory: str, mount: Mapping[str, Any], pull_secrets: Iterable[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The init container ``name`` that brings what ``image`` holds in ``/data`` into ``directory``, and the volumes with the
    registries' logins."""
    volumes = [
        {
            "name": f"login-{index}-{name}"[:63].rstrip("-"),
            "secret": {"secretName": secret, "items": [{"key": ".dockerconfigjson", "path": "config.json"}]},
        }
        for index, secret in enumerate(pull_secrets)
    ]
    places = [f"{LOGINS}/{index}" for index in range(len(volumes))]
    logins = [
        {"name": volume["name"], "mountPath": place, "readOnly": True}
        for volume, place in zip(volumes, places, strict=True)
    ]
    container = {
        "name": name,
        "image": puller,
        "command": ["kaito", "oci", "pull"],
        "args": [image, directory, *(f"--config={place}" for place in places)],
        "volumeMounts": [dict(mount), *logins],
    }
    return volumes, container


def _adapter_name(adapter: AdapterSpec) -> str:
    return (adapter.source and adapter.source.name) or ""


def gpu_resources(gpus: int) -> dict[str, Any] | None:
    """Requests and limits of ``gpus`` GPUs; None for none."""
    if not gpus:
        return None
    devices = {labels.NVIDIA_GPU: str(gpus)}
    return {"requests": devices, "limits": dict(devices)}


def flags(parameters: Mapping[str, Any]) -> list[str]:
    """``--name=value``, or ``--name`` for an empty value and for True, sorted, so that equal settings give equal pods.

    A parameter that is False or None is left out.
    """
    words = []
    for name, value in sorted(parameters.items()):
        if value is None or value is False:
            continue
        words.append(f"--{name}" if value is True or value == "" else f"--{name}={value}")
    return words
