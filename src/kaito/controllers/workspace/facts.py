"""What Nodes say about themselves. Pure functions of Node manifests."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.quantity import Quantity
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kaito.runtime import Manifest

_BLOCKING = ("NoSchedule", "NoExecute")
_OF_CONDITIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable")
"""Taints that say what the node's conditions and ``spec.unschedulable`` say better."""


def name_of(node: Manifest) -> str:
    name: str = node["metadata"]["name"]
    return name


def labels_of(node: Manifest) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def is_ready(node: Manifest) -> bool:
    condition = _ready(node)
    return condition is not None and condition["status"] == "True"


def not_ready_since(node: Manifest) -> datetime | None:
    """When a node that is not Ready was last; None where it does not say."""
    condition = _ready(node)
    moment = (condition or {}).get("lastTransitionTime") or node["metadata"].get("creationTimestamp")
    return parse_time(moment) if moment else None


def _ready(node: Manifest) -> Mapping[str, Any] | None:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == "Ready"), None)


def pressure(node: Manifest) -> str:
    """The conditions that warn of a shortage, such as ``DiskPressure``."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return ", ".join(
        condition["type"]
        for condition in conditions
        if condition["type"].endswith("Pressure") and condition["status"] == "True"
    )


def gpus(node: Manifest) -> int:
    """NVIDIA GPUs that pods can ask for: 0 until the device plug-in has announced them."""
    status = node.get("status") or {}
    amounts = [(status.get(kind) or {}).get(labels.NVIDIA_GPU, 0) for kind in ("capacity", "allocatable")]
    return min(Quantity.parse(amount).ceil() for amount in amounts)


def is_cordoned(node: Manifest) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def untolerated(node: Manifest, tolerations: Sequence[Mapping[str, Any]]) -> str:
    """The first taint, as ``key=value:effect``, that keeps pods with ``tolerations`` away; empty for none."""
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("effect") not in _BLOCKING or taint["key"] in _OF_CONDITIONS:
            continue
        if not any(_tolerates(toleration, taint) for toleration in tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"{taint['key']}{value}:{taint['effect']}"
    return ""


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def pod_gpus(spec: Mapping[str, Any]) -> int:
    """NVIDIA GPUs that a pod of ``spec`` holds: the sum of its containers, or the most that an init container needs."""
    return max(
        sum(map(_container_gpus, spec.get("containers") or ())),
        max(map(_container_gpus, spec.get("initContainers") or ()), default=0),
    )


def _container_gpus(container: Any) -> int:
    resources = (container.get("resources") if isinstance(container, dict) else None) or {}
    for kind in ("limits", "requests"):
        amount = (resources.get(kind) or {}).get(labels.NVIDIA_GPU)
        if amount is not None:
            try:
                return Quantity.parse(amount).ceil()
            except (ValueError, TypeError):
                return 0  # the API server refuses it
    return 0


def held_gpus(pods: Iterable[Manifest]) -> int:
    """GPUs that living pods hold."""
    living = (pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"))
    return sum(pod_gpus(pod["spec"]) for pod in living)
