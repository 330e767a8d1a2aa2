"""Emptying a node before its machine goes: evictions that respect budgets, until the time for it is over.

``plan`` decides, purely; ``drain`` does one round of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.pipeline import Wait
from kaito.runtime import PODS, ApiError, Conflict, FieldSelector, NotFound, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from kaito.runtime import Client, Manifest

STUCK_AFTER = timedelta(minutes=1)
"""After the end of its grace period, at which a pod that is still there is no longer waited for: its kubelet is dead."""
DEFAULT_GRACE = 30
"""Seconds; a pod's own grace period where it names none."""
DRAINING, BLOCKED = "Draining", "EvictionBlocked"
SHOWN = 5
"""Pods that a message names."""

_CRITICAL = ("system-cluster-critical", "system-node-critical")
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_MIRROR = "kubernetes.io/config.mirror"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the pods of a node now."""

    evict: tuple[Manifest, ...] = ()
    force: tuple[Manifest, ...] = ()
    """To delete whatever their budgets say, so that their grace period ends with the time for draining."""
    waiting: tuple[tuple[str, str], ...] = ()
    """Pods that are not to be touched now, and why."""
    done: bool = False
    """Nothing is left, or the time is over."""


def plan(pods: Iterable[Manifest], now: datetime, deadline: datetime) -> Plan:
    """Pods that matter to the cluster go last, when no other is left."""
    remaining = [pod for pod in pods if _must_go(pod, now)]
    if not remaining or now >= deadline:
        return Plan(done=True)
    ordinary = [pod for pod in remaining if pod["spec"].get("priorityClassName") not in _CRITICAL]
    evict, force, waiting = [], [], []
    for pod in ordinary or remaining:
        if pod["metadata"].get("deletionTimestamp"):
            waiting.append((_name(pod), "is terminating"))
        elif now >= deadline - timedelta(seconds=_grace(pod)):
            force.append(pod)
        elif (annotation := _undisturbed(pod)) is not None:
            waiting.append((_name(pod), f"has the annotation {annotation}"))
        else:
            evict.append(pod)
    return Plan(tuple(evict), tuple(force), tuple(waiting))


async def drain(client: Client, node: str, now: datetime, deadline: datetime, interval: float) -> Wait | None:
    """One round; None once the node is empty, or the time for that is over."""
    pods = await client.list(PODS, fields=FieldSelector.parse(f"spec.nodeName={node}"))
    step = plan(pods, now, deadline)
    if step.done:
        return None
    left = max(0, int((deadline - now).total_seconds()))
    waiting = list(step.waiting)
    refused: list[tuple[str, str]] = []
    for pod in step.force:
        await _delete(client, pod, min(_grace(pod), left))
        waiting.append((_name(pod), "was deleted, because the time for draining is nearly over"))
    for pod in step.evict:
        refusal = await _evict(client, pod)
        (refused if refusal else waiting).append((_name(pod), refusal or "is terminating"))
    blocked = [*refused, *(entry for entry in step.waiting if entry[1] != "is terminating")]
    told = sorted([*refused, *waiting])
    more = f", and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    said = "; ".join(f"{pod} {why}" for pod, why in told[:SHOWN])
    # At the deadline at the latest.
    pause = min(interval, max(0.1, (deadline - now).total_seconds()))
    return Wait(BLOCKED if blocked else DRAINING, f"draining Node {node}: {said}{more}", pause)


async def _evict(client: Client, pod: Manifest) -> str:
    """Empty if the pod goes; else why not, in the words of the API server."""
    metadata = pod["metadata"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "deleteOptions": {"preconditions": {"uid": metadata["uid"]}},
    }
    try:
        await client.post(PODS, metadata["name"], "eviction", eviction, metadata["namespace"], wait=False)
    except (NotFound, Conflict):
        return ""  # it is gone, and what has its name now is another
    except ApiError as error:
        causes = " ".join(cause.get("message", "") for cause in error.causes)
        return f"is not evicted: {error.message} {causes}".rstrip()
    return ""


async def _delete(client: Client, pod: Manifest, grace: int) -> None:
    metadata = pod["metadata"]
    try:
        await client.delete(
            PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_period=max(1, grace)
        )
    except (NotFound, Conflict):
        return


def _must_go(pod: Manifest, now: datetime) -> bool:
    metadata, spec = pod["metadata"], pod["spec"]
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    owners = {owner["kind"] for owner in metadata.get("ownerReferences") or ()}
    if _MIRROR in (metadata.get("annotations") or {}) or owners & {"Node", "DaemonSet"}:
        return False
    if any(_tolerates_cordon(toleration) for toleration in spec.get("tolerations") or ()):
        return False
    ends = metadata.get("deletionTimestamp")
    return not ends or now - parse_time(ends) <= STUCK_AFTER


def _tolerates_cordon(toleration: dict[str, Any]) -> bool:
    """Whether the pod would be put on a cordoned node again: evicting it changes nothing."""
    if toleration.get("effect") not in (None, "", labels.NO_SCHEDULE):
        return False
    if toleration.get("key") == _UNSCHEDULABLE:
        return toleration.get("operator") == "Exists" or not toleration.get("value")
    return not toleration.get("key") and toleration.get("operator") == "Exists"


def _undisturbed(pod: Manifest) -> str | None:
    annotations = pod["metadata"].get("annotations") or {}
    return next((name for name in labels.DO_NOT_DISRUPT if annotations.get(name) == "true"), None)


def _grace(pod: Manifest) -> int:
    grace = pod["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE if grace is None else int(grace)


def _name(pod: Manifest) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
