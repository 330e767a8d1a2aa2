"""What a Deployment's status says of its ReplicaSets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kaito.devcluster.controllers import conditions
from kaito.devcluster.controllers.rollout import bounds, replicas
from kaito.runtime import Manifest, parse_time

STAMP = "lastUpdateTime"
NO_DEADLINE = 2**31 - 1
"""``progressDeadlineSeconds`` that stands for none."""


def deployment_status(
    deployment: Manifest, new: Manifest | None, old: Sequence[Manifest], created: str, now: datetime
) -> Manifest:
    """``created`` names the ReplicaSet if this very pass has created it."""
    before = deployment.get("status") or {}
    sets = [*old, *([new] if new else [])]

    def total(field: str, of: Sequence[Manifest] = sets) -> int:
        return sum((item.get("status") or {}).get(field, 0) for item in of)

    ready_to_serve = total("availableReplicas")
    status: Manifest = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total("replicas"),
        "updatedReplicas": total("replicas", [new] if new else []),
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": ready_to_serve,
        "unavailableReplicas": max(0, sum(replicas(item) for item in sets) - ready_to_serve),
        "collisionCount": before.get("collisionCount", 0),
    }
    status = {name: value for name, value in status.items() if value}
    known = _availability(deployment, before.get("conditions") or [], ready_to_serve, now)
    known = _progress(deployment, known, status, new, created, now)
    failure = next((found for item in sets if (found := conditions.find(item, "ReplicaFailure"))), None)
    if failure is not None:
        known = conditions.put(known, "ReplicaFailure", "True", failure["reason"], failure["message"], now, stamp=STAMP)
    else:
        known = conditions.without(known, "ReplicaFailure")
    status["conditions"] = known
    return status


def _availability(deployment: Manifest, known: list[Manifest], available: int, now: datetime) -> list[Manifest]:
    if available >= replicas(deployment) - bounds(deployment)[1]:
        state = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        state = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    return conditions.put(known, "Available", *state, now, stamp=STAMP)


def _progress(
    deployment: Manifest, known: list[Manifest], status: Manifest, new: Manifest | None, created: str, now: datetime
) -> list[Manifest]:
    held = next((item for item in known if item["type"] == "Progressing"), None)
    if deployment["spec"].get("paused"):
        return conditions.put(
            known, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now, stamp=STAMP
        )
    if held is not None and held["reason"] == "DeploymentPaused":
        known = conditions.put(
            known, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now, stamp=STAMP
        )
        held = next(item for item in known if item["type"] == "Progressing")
    if _deadline(deployment) is None:
        return conditions.without(known, "Progressing")
    if created:
        message = f'Created new replica set "{created}"'
        return conditions.put(known, "Progressing", "True", "NewReplicaSetCreated", message, now, stamp=STAMP)
    name = new["metadata"]["name"] if new is not None else ""
    subject = f'ReplicaSet "{name}"' if name else f'Deployment "{deployment["metadata"]["name"]}"'
    settled = held is not None and held["reason"] == "NewReplicaSetAvailable"
    if settled and status.get("replicas", 0) == status.get("updatedReplicas", 0):
        return known
    if is_complete(deployment, status):
        message = f"{subject} has successfully progressed."
        return conditions.put(known, "Progressing", "True", "NewReplicaSetAvailable", message, now, stamp=STAMP)
    if held is None and new is not None:
        message = f'Found new replica set "{name}"'
        return conditions.put(known, "Progressing", "True", "FoundNewReplicaSet", message, now, stamp=STAMP)
    if _advanced(deployment.get("status") or {}, status):
        message = f"{subject} is progressing."
        known = conditions.put(known, "Progressing", "True", "ReplicaSetUpdated", message, now, stamp=STAMP)
        return [{**item, STAMP: _stamp(now)} if item["type"] == "Progressing" else item for item in known]
    if held is not None and deadline_in(deployment, held, now) == 0:
        message = f"{subject} has timed out progressing."
        return conditions.put(known, "Progressing", "False", "ProgressDeadlineExceeded", message, now, stamp=STAMP)
    return known


def _stamp(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_complete(deployment: Manifest, status: Manifest) -> bool:
    wanted = replicas(deployment)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    observed = int(status.get("observedGeneration", 0))
    return counts == [wanted] * 3 and observed >= int(deployment["metadata"].get("generation", 0))


def _advanced(before: Manifest, status: Manifest) -> bool:
    def old_pods(of: Manifest) -> int:
        return int(of.get("replicas", 0) - of.get("updatedReplicas", 0))

    return (
        status.get("updatedReplicas", 0) > before.get("updatedReplicas", 0)
        or old_pods(status) < old_pods(before)
        or status.get("readyReplicas", 0) > before.get("readyReplicas", 0)
        or status.get("availableReplicas", 0) > before.get("availableReplicas", 0)
    )


def _deadline(deployment: Manifest) -> int | None:
    seconds = deployment["spec"].get("progressDeadlineSeconds")
    return None if seconds in (None, NO_DEADLINE) else int(seconds)


def deadline_in(deployment: Manifest, progressing: Manifest | None, now: datetime) -> float | None:
    """Seconds until the roll-out counts as stuck, 0 if it does; None where it is not under way or has no deadline."""
    seconds = _deadline(deployment)
    if seconds is None or progressing is None:
        return None
    if progressing["reason"] in ("NewReplicaSetAvailable", "DeploymentPaused"):
        return None
    if progressing["reason"] == "ProgressDeadlineExceeded":
        return 0.0
    waited = (now - parse_time(progressing[STAMP])).total_seconds()
    return max(0.0, seconds - waited)
