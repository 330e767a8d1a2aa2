"""The status of a pod's containers and what follows from it for the pod. Pure functions on manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kaito.devcluster.controllers import conditions
from kaito.runtime import Manifest, format_time

Pod = Mapping[str, Any]

SIMULATED = "kaito.sh/simulated"
"""Label of nodes and pods that only play their part."""
CREATING, INITIALIZING = "ContainerCreating", "PodInitializing"


def specs(pod: Pod, *, init: bool = False) -> list[Manifest]:
    return list(pod["spec"].get("initContainers" if init else "containers") or ())


def statuses(pod: Pod, *, init: bool = False) -> list[Manifest]:
    """The status of each container, in the order of the spec; empty while no kubelet has accepted the pod."""
    field = "initContainerStatuses" if init else "containerStatuses"
    return list((pod.get("status") or {}).get(field) or ())


def is_sidecar(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


def is_running(status: Mapping[str, Any]) -> bool:
    return "running" in (status.get("state") or {})


def waiting_reason(status: Mapping[str, Any]) -> str:
    return str(((status.get("state") or {}).get("waiting") or {}).get("reason", ""))


def exit_code(status: Mapping[str, Any]) -> int | None:
    terminated = (status.get("state") or {}).get("terminated")
    return None if terminated is None else int(terminated.get("exitCode", 0))


def next_init(pod: Pod) -> int | None:
    """Index of the init container whose turn it is; None when all have done their part."""
    for index, (container, status) in enumerate(zip(specs(pod, init=True), statuses(pod, init=True), strict=False)):
        if is_sidecar(container):
            if not is_running(status):
                return index
        elif exit_code(status) != 0:
            return index
    return None


def runs_to_completion(pod: Pod) -> bool:
    return bool(pod["spec"].get("restartPolicy", "Always") != "Always")


def waiting(container: Mapping[str, Any], reason: str, message: str = "") -> Manifest:
    """The status of a container that has never run."""
    state: Manifest = {"reason": reason}
    if message:
        state["message"] = message
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "lastState": {},
        "state": {"waiting": state},
    }


def running(pod: Pod, status: Manifest, now: datetime) -> Manifest:
    """A container that starts; again if it has ended or crashed before."""
    restarts = status.get("restartCount", 0) + bool(status.get("lastState"))
    identity = f"{pod['metadata']['uid']}/{status['name']}/{restarts}"
    return {
        **status,
        "imageID": f"simulated://{status['image']}",
        "containerID": f"simulated://{hashlib.sha256(identity.encode()).hexdigest()}",
        "restartCount": restarts,
        "started": True,
        "ready": False,
        "state": {"running": {"startedAt": format_time(now)}},
    }


def terminated(status: Manifest, code: int, reason: str, now: datetime) -> Manifest:
    """A container that ends."""
    return {
        **status,
        "ready": False,
        "started": False,
        "state": {"terminated": _termination(status, code, reason, now)},
    }


def crashed(status: Manifest, code: int, reason: str, message: str, now: datetime) -> Manifest:
    """A container that has ended and waits to be started again."""
    return {
        **status,
        "ready": False,
        "started": False,
        "lastState": {"terminated": _termination(status, code, reason, now)},
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": message}},
    }


def _termination(status: Manifest, code: int, reason: str, now: datetime) -> Manifest:
    started = ((status.get("state") or {}).get("running") or {}).get("startedAt", format_time(now))
    return {
        "exitCode": code,
        "reason": reason,
        "startedAt": started,
        "finishedAt": format_time(now),
        "containerID": status.get("containerID", ""),
    }


def pod_status(pod: Pod, main: Iterable[Manifest], inits: Iterable[Manifest], now: datetime, **fields: Any) -> Manifest:
    """The pod's status with these containers: phase and conditions follow from them; ``fields`` are set beside."""
    status: Manifest = {**(pod.get("status") or {}), **fields, "containerStatuses": list(main)}
    inits = list(inits)
    if inits:
        status["initContainerStatuses"] = inits
    seen = {**pod, "status": status}
    status["phase"] = _phase(seen)
    status["conditions"] = _conditions(seen, now)
    return status


def _phase(pod: Pod) -> str:
    held = statuses(pod)
    codes = [exit_code(item) for item in held]
    if codes and None not in codes and runs_to_completion(pod):
        if not any(codes):
            return "Succeeded"
        if pod["spec"]["restartPolicy"] == "Never":
            return "Failed"
    never = pod["spec"].get("restartPolicy") == "Never"
    if never and any(exit_code(item) for item in statuses(pod, init=True)):
        return "Failed"
    started = any(is_running(item) or item.get("lastState") or exit_code(item) is not None for item in held)
    return "Running" if next_init(pod) is None and started else "Pending"


def _conditions(pod: Pod, now: datetime) -> list[Manifest]:
    status = pod["status"]
    phase = status["phase"]
    known: list[Manifest] = status.get("conditions") or []
    initialized = next_init(pod) is None
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "")
    unready = [item["name"] for item in statuses(pod) if not item.get("ready")]
    unfinished = [item["name"] for item in statuses(pod, init=True) if exit_code(item) != 0 and not is_running(item)]
    unready_text = f"containers with unready status: [{' '.join(unready)}]"
    containers = (
        ("False", over, "") if over else ("False", "ContainersNotReady", unready_text) if unready else ("True", "", "")
    )
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    closed = [gate for gate in gates if not conditions.is_true(pod, gate)]
    ready = containers
    if closed and containers[0] == "True":
        ready = ("False", "ReadinessGatesNotReady", f"the readiness gates [{' '.join(closed)}] are not passed")
    states = {
        "PodReadyToStartContainers": ("True" if status.get("podIP") and not over else "False", "", ""),
        "Initialized": ("True", over if phase == "Succeeded" else "", "")
        if initialized
        else (
            "False",
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(unfinished)}]",
        ),
        "Ready": ready,
        "ContainersReady": containers,
    }
    for kind, (value, reason, message) in states.items():
        known = conditions.put(known, kind, value, reason, message, now)
    return known
