"""A Workspace and all that belongs to it as a tree, each part with its state and what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kaito.api import labels
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import claim_key
from kaito.controllers.workspace.pods import worst_problem
from kaito.runtime import Manifest, parse_time

State = Literal["Ready", "Waiting", "Failed", "Deleting", "Done", "Missing"]

_FAILED_REASONS = ("failed", "error", "exceeded", "crashloop", "oomkilled", "pullerror", "starterror")


@dataclass(frozen=True, slots=True)
class Part:
    kind: str
    name: str
    state: State
    says: str = ""
    """What it waits for, what is wrong with it, or what there is to know."""
    since: datetime | None = None
    """When it came into this state."""
    parts: tuple[Part, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "state": self.state,
            "message": self.says,
            "since": self.since.isoformat() if self.since else None,
            "parts": [part.as_json() for part in self.parts],
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of one Workspace."""

    workspace: Manifest
    orders: Sequence[Manifest] = ()
    """Machines and NodeClaims."""
    nodes: Sequence[Manifest] = ()
    workloads: Sequence[Manifest] = ()
    pods: Sequence[Manifest] = ()
    services: Sequence[Manifest] = ()


def picture(seen: Seen) -> Part:
    """Workspace → Machines → pools → Nodes, then Services and workloads with their pods."""
    workspace = seen.workspace
    nodes = {facts.name_of(node): node for node in seen.nodes}
    named: list[str] = list((workspace.get("status") or {}).get("workerNodes") or ())
    orders = [_order(order, nodes) for order in sorted(seen.orders, key=_name)]
    below = {node for order in orders for node in _names(order, "Node")}
    key = claim_key(workspace["metadata"].get("namespace", ""), _name(workspace))
    own = [name for name in nodes if name not in below and (name in named or key in facts.labels_of(nodes[name]))]
    lost = [Part("Node", name, "Missing", "the cluster does not have it") for name in named if name not in nodes]
    parts = (
        *orders,
        *(_node(nodes[name]) for name in sorted(own)),
        *lost,
        *(_workload(workload, seen.pods) for workload in seen.workloads),
        *(_service(service) for service in sorted(seen.services, key=_name)),
    )
    state, says, since = _workspace_state(workspace)
    return Part("Workspace", _name(workspace), state, says, since, parts)


def _name(manifest: Mapping[str, Any]) -> str:
    return str(manifest["metadata"]["name"])


def _names(part: Part, kind: str) -> Iterable[str]:
    if part.kind == kind:
        yield part.name
    for below in part.parts:
        yield from _names(below, kind)


def _conditions(manifest: Manifest) -> list[Mapping[str, Any]]:
    return (manifest.get("status") or {}).get("conditions") or []


def _time(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


def _created(manifest: Manifest) -> datetime | None:
    return _time(manifest["metadata"].get("creationTimestamp"))


def _deleting(manifest: Manifest) -> datetime | None:
    return _time(manifest["metadata"].get("deletionTimestamp"))


def _told(condition: Mapping[str, Any]) -> str:
    message = condition.get("message") or condition.get("reason") or ""
    return f"{condition['type']}: {message}" if message else str(condition["type"])


def _failing(condition: Mapping[str, Any]) -> bool:
    reason = str(condition.get("reason") or "").lower()
    return condition["status"] == "False" and any(word in reason for word in _FAILED_REASONS)


def _workspace_state(workspace: Manifest) -> tuple[State, str, datetime | None]:
    conditions = {str(each["type"]): each for each in _conditions(workspace)}
    if moment := _deleting(workspace):
        told = conditions.get("WorkspaceDeleting")
        return "Deleting", _told(told) if told else "waiting for the operator", moment
    whole = conditions.get("WorkspaceSucceeded")
    if whole is None:
        return "Waiting", "the operator has not looked at it yet: does it run?", _created(workspace)
    since = _time(whole.get("lastTransitionTime"))
    if whole["status"] == "True":
        done = (workspace.get("status") or {}).get("state") == "Succeeded"
        return "Done" if done else "Ready", str(whole.get("message") or ""), since
    open_ = [each for name, each in conditions.items() if each["status"] != "True" and name != "WorkspaceSucceeded"]
    # The first in the order of the steps is what the others wait for.
    first = min(open_, key=lambda each: _STEPS.get(str(each["type"]), len(_STEPS)), default=whole)
    moved = _time(first.get("lastTransitionTime")) or since
    return "Failed" if _failing(first) or _failing(whole) else "Waiting", _told(first), moved


_STEPS = {
    name: place
    for place, name in enumerate(("MachineReady", "NodeClaimReady", "ResourceReady", "JobStarted", "InferenceReady"))
}


def _order(order: Manifest, nodes: Mapping[str, Manifest]) -> Part:
    kind, name = str(order["kind"]), _name(order)
    conditions = _conditions(order)
    ready = next((each for each in conditions if each["type"] == "Ready"), None)
    open_ = [each for each in conditions if each["status"] != "True" and each["type"] != "Ready"]
    first = next((each for each in open_ if each["type"].endswith("Launched")), None) or (open_[0] if open_ else ready)
    state: State
    since: datetime | None
    if moment := _deleting(order):
        state, says, since = "Deleting", _told(first) if first else "", moment
    elif ready is not None and ready["status"] == "True":
        state, says, since = "Ready", "", _time(ready.get("lastTransitionTime"))
    else:
        state = "Failed" if first is not None and first["status"] == "False" and _cloud_refused(first) else "Waiting"
        says = _told(first) if first is not None else "the machine controller has not looked at it yet: does it run?"
        since = (_time(first.get("lastTransitionTime")) if first is not None else None) or _created(order)
    members = [node for node in nodes.values() if _belongs(node, order)]
    pools: dict[str, list[Manifest]] = {}
    for node in members:
        pools.setdefault(facts.labels_of(node).get(labels.AKS_AGENT_POOL, ""), []).append(node)
    below = [
        Part("AgentPool", pool, "Ready", "", None, tuple(_node(node) for node in found)) if pool else _node(found[0])
        for pool, found in sorted(pools.items())
    ]
    return Part(kind, name, state, says, since, tuple(below))


def _cloud_refused(condition: Mapping[str, Any]) -> bool:
    return str(condition["type"]).endswith("Launched") and condition.get("reason") not in (
        "Launching",
        "MachineNotLaunched",
        "AwaitingReconciliation",
    )


def _belongs(node: Manifest, order: Manifest) -> bool:
    own = facts.labels_of(node)
    if _name(order) == own.get(labels.AKS_AGENT_POOL):
        return True
    references = node["metadata"].get("ownerReferences") or ()
    return facts.name_of(node) == (order.get("status") or {}).get("nodeName") or any(
        reference.get("uid") == order["metadata"].get("uid") for reference in references
    )


def _node(node: Manifest) -> Part:
    size, gpus = facts.labels_of(node).get(labels.INSTANCE_TYPE, ""), facts.gpus(node)
    says = ", ".join(part for part in (size, f"{gpus} GPU{'s' if gpus != 1 else ''}" if gpus else "no GPU") if part)
    troubles = [*(("cordoned",) if facts.is_cordoned(node) else ()), *filter(None, (facts.pressure(node),))]
    ready = facts.is_ready(node)
    since = _deleting(node) or (facts.not_ready_since(node) if not ready else _ready_since(node))
    state: State = "Deleting" if _deleting(node) else "Ready" if ready else "Waiting"
    return Part("Node", facts.name_of(node), state, "; ".join((says, *troubles)), since)


def _ready_since(node: Manifest) -> datetime | None:
    ready = next((each for each in _conditions(node) if each["type"] == "Ready"), {})
    return _time(ready.get("lastTransitionTime")) or _created(node)


def _workload(workload: Manifest, pods: Sequence[Manifest]) -> Part:
    status, spec = workload.get("status") or {}, workload.get("spec") or {}
    state: State
    if workload["kind"] == "Job":
        wanted = int(spec.get("completions") or 1)
        done, failed = int(status.get("succeeded") or 0), int(status.get("failed") or 0)
        over = any(each["type"] == "Failed" and each["status"] == "True" for each in _conditions(workload))
        state = "Done" if done >= wanted else "Failed" if over else "Waiting"
        says = f"{done} of {wanted} completed" + (f", {failed} failed" if failed else "")
    else:
        wanted, ready = int(spec.get("replicas", 1)), int(status.get("readyReplicas") or 0)
        current = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
        state = "Ready" if current and ready >= wanted else "Waiting"
        says = f"{ready} of {wanted} ready"
    if _deleting(workload):
        state = "Deleting"
    own = [pod for pod in pods if _runs(pod, workload)]
    problem = worst_problem(own) if state == "Waiting" else None
    if problem is not None and problem.failing:
        state = "Failed"
    below = tuple(_pod(pod) for pod in sorted(own, key=_name))
    return Part(str(workload["kind"]), _name(workload), state, says, _created(workload), below)


def _runs(pod: Manifest, workload: Manifest) -> bool:
    """Whether ``pod`` is one of the workload's; those of a Deployment belong to its ReplicaSets."""
    key, value = (
        ("kind", "ReplicaSet") if workload["kind"] == "Deployment" else ("uid", workload["metadata"].get("uid"))
    )
    return any(
        each.get("controller") and each.get(key) == value for each in pod["metadata"].get("ownerReferences") or ()
    )


def _pod(pod: Manifest) -> Part:
    status = pod.get("status") or {}
    conditions = {each["type"]: each for each in _conditions(pod)}
    ready = conditions.get("Ready", {})
    problem = worst_problem([pod])
    where = (pod.get("spec") or {}).get("nodeName")
    state: State
    if (moment := _deleting(pod)) is not None:
        return Part("Pod", _name(pod), "Deleting", "", moment)
    if status.get("phase") == "Succeeded":
        state, says = "Done", ""
    elif ready.get("status") == "True":
        state, says = "Ready", f"on {where}" if where else ""
    else:
        state = "Failed" if problem is not None and problem.failing else "Waiting"
        says = str(problem) if problem is not None else _starting(pod)
    since = _time(ready.get("lastTransitionTime")) or _created(pod)
    return Part("Pod", _name(pod), state, says, since)


def _starting(pod: Manifest) -> str:
    status = pod.get("status") or {}
    if not (pod.get("spec") or {}).get("nodeName"):
        return "waiting for a node"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if not container.get("ready"):
            waiting = (container.get("state") or {}).get("waiting") or {}
            doing = (
                waiting.get("message")
                or waiting.get("reason")
                or "its probe has not succeeded yet: the model is loaded"
            )
            return f"container {container.get('name')}: {doing}"
    return str(status.get("phase") or "Pending")


def _service(service: Manifest) -> Part:
    spec = service.get("spec") or {}
    ports = ", ".join(str(port["port"]) for port in spec.get("ports") or ())
    entries = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    outside = ", ".join(str(entry.get("ip") or entry.get("hostname")) for entry in entries)
    address = "no address of its own" if spec.get("clusterIP") == "None" else str(spec.get("clusterIP") or "")
    waiting = spec.get("type") == "LoadBalancer" and not outside
    says = f"{address}, port {ports}" + (f"; from outside {outside}" if outside else "")
    if waiting:
        return Part(
            "Service", _name(service), "Waiting", f"{says}; the cloud has not given an address yet", _created(service)
        )
    return Part("Service", _name(service), "Ready", says, _created(service))
