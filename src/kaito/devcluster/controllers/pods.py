"""What controllers ask about pods, and how they make them from a template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any

from kaito.devcluster.controllers import conditions
from kaito.runtime import Manifest, parse_time

Pod = Mapping[str, Any]

_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase(pod: Pod) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def is_deleting(pod: Pod) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_finished(pod: Pod) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Neither finished nor being deleted."""
    return not is_finished(pod) and not is_deleting(pod)


def is_ready(pod: Pod) -> bool:
    return conditions.is_true(pod, "Ready")


def available_in(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """Seconds until a ready pod counts as available, 0 if it does; None for one that is not ready."""
    ready = conditions.find(pod, "Ready")
    if ready is None or ready.get("status") != "True":
        return None
    if not min_ready_seconds:
        return 0.0
    since = parse_time(ready["lastTransitionTime"])
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def soonest(delays: Iterable[float | None]) -> float | None:
    """The shortest of the waits that have not ended yet; None where none is left."""
    return min((delay for delay in delays if delay), default=None)


def from_template(
    template: Mapping[str, Any],
    owner: Mapping[str, Any],
    *,
    name: str = "",
    generate_name: str = "",
    labels: Mapping[str, str] | None = None,
) -> Manifest:
    """A new pod of a workload. ``owner`` is its owner reference; ``labels`` are added to the template's."""
    template = deepcopy(dict(template))
    source = template.get("metadata") or {}
    metadata: Manifest = {"name": name} if name else {"generateName": generate_name}
    metadata["labels"] = {**(source.get("labels") or {}), **(labels or {})}
    if source.get("annotations"):
        metadata["annotations"] = source["annotations"]
    if source.get("finalizers"):
        metadata["finalizers"] = source["finalizers"]
    metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}


def deletion_order(pods: Iterable[Manifest]) -> list[Manifest]:
    """Pods in the order in which a ReplicaSet gives them up: those that do least, and the youngest, first."""

    def rank(pod: Manifest) -> tuple[Any, ...]:
        metadata = pod["metadata"]
        cost = (metadata.get("annotations") or {}).get(_DELETION_COST, "0")
        ready = conditions.find(pod, "Ready") or {}
        restarts = sum(item.get("restartCount", 0) for item in (pod.get("status") or {}).get("containerStatuses") or ())
        return (
            bool(pod["spec"].get("nodeName")),
            ("Pending", "Unknown", "Running").index(phase(pod)) if phase(pod) in ("Pending", "Unknown") else 2,
            is_ready(pod),
            int(cost) if cost.lstrip("-").isdigit() else 0,
            _later_first(ready.get("lastTransitionTime", "")) if is_ready(pod) else (),
            -restarts,
            _later_first(metadata.get("creationTimestamp", "")),
            metadata["name"],
        )

    return sorted(pods, key=rank)


def _later_first(moment: str) -> tuple[int, ...]:
    """Sort key by which later RFC 3339 times come first."""
    return tuple(-ord(letter) for letter in moment)
