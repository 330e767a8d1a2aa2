"""Printers of pods and of what runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.printers.columns import (
    NONE,
    Object,
    Printer,
    age,
    condition,
    containers,
    joined,
    label_selector,
    labels,
    name,
    part,
    printer,
)
from kaito.devcluster.apiserver.printers.duration import human_duration, since
from kaito.devcluster.apiserver.schema.formats import parse_date_time

if TYPE_CHECKING:
    from datetime import datetime

_TEMPLATE = ("spec", "template")
Status = Mapping[str, Any]


def _pod(pod: Object, now: datetime) -> list[Any]:
    status, spec = part(pod, "status"), part(pod, "spec")
    sidecars = {item.get("name") for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or ()) + len(sidecars)
    reason, ready, restarts = _pod_state(pod, sidecars)
    ip = next((item.get("ip") for item in status.get("podIPs") or ()), status.get("podIP"))
    return [
        name(pod),
        f"{ready}/{total}",
        reason,
        _restarts(restarts, now),
        age(pod, now),
        ip or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _readiness_gates(pod),
    ]


def _pod_state(pod: Object, sidecars: set[Any]) -> tuple[str, int, list[Status]]:
    """Status text, ready containers, and the container statuses whose restarts are counted."""
    status = part(pod, "status")
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    if condition(pod, "PodScheduled").get("reason") == "SchedulingGated":
        reason = "SchedulingGated"
    init_statuses = status.get("initContainerStatuses") or []
    ready, waiting_for = _init_state(pod, init_statuses, sidecars)
    counted = list(init_statuses)
    if not waiting_for or condition(pod, "Initialized").get("status") == "True":
        statuses = status.get("containerStatuses") or []
        counted = [*(item for item in init_statuses if item.get("name") in sidecars), *statuses]
        running = sum(bool(item.get("ready")) and "running" in part(item, "state") for item in statuses)
        ready += running
        reason = next(filter(None, map(_container_reason, statuses)), reason)
        if reason == "Completed" and running:
            reason = "Running" if condition(pod, "Ready").get("status") == "True" else "NotReady"
    else:
        reason = waiting_for
    if part(pod, "metadata").get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return reason, ready, counted


def _init_state(pod: Object, statuses: list[Status], sidecars: set[Any]) -> tuple[int, str]:
    """Ready sidecars, and what the first init container that is not done is doing."""
    ready = 0
    for index, item in enumerate(statuses):
        state = part(item, "state")
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated and not terminated.get("exitCode"):
            continue
        if item.get("name") in sidecars and item.get("started"):
            ready += bool(item.get("ready"))
            continue
        if terminated:
            return ready, f"Init:{_exit(terminated)}"
        if waiting.get("reason", "PodInitializing") != "PodInitializing":
            return ready, f"Init:{waiting['reason']}"
        return ready, f"Init:{index}/{len(part(pod, 'spec', 'initContainers'))}"
    return ready, ""


def _container_reason(status: Status) -> str:
    state = part(status, "state")
    if reason := (state.get("waiting") or {}).get("reason"):
        return str(reason)
    return _exit(state["terminated"]) if state.get("terminated") else ""


def _exit(terminated: Status) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"


def _restarts(statuses: list[Status], now: datetime) -> str:
    count = sum(item.get("restartCount", 0) for item in statuses)
    ended = [part(item, "lastState", "terminated").get("finishedAt") for item in statuses]
    times = [moment for text in ended if text and (moment := parse_date_time(text))]
    return f"{count} ({human_duration(now - max(times))} ago)" if count and times else str(count)


def _readiness_gates(pod: Object) -> str:
    gates = part(pod, "spec", "readinessGates") or []
    if not gates:
        return NONE
    passed = sum(condition(pod, gate.get("conditionType", "")).get("status") == "True" for gate in gates)
    return f"{passed}/{len(gates)}"


def _deployment(obj: Object, now: datetime) -> list[Any]:
    status = part(obj, "status")
    return [
        name(obj),
        f"{status.get('readyReplicas', 0)}/{part(obj, 'spec').get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(obj, now),
        *containers(obj, *_TEMPLATE),
        label_selector(part(obj, "spec").get("selector")),
    ]


def _replica_set(obj: Object, now: datetime) -> list[Any]:
    selector = part(obj, "spec").get("selector")
    plain = obj.get("kind") == "ReplicationController"
    return [
        name(obj),
        part(obj, "spec").get("replicas", 1),
        part(obj, "status").get("replicas", 0),
        part(obj, "status").get("readyReplicas", 0),
        age(obj, now),
        *containers(obj, *_TEMPLATE),
        labels(selector) if plain else label_selector(selector),
    ]


def _stateful_set(obj: Object, now: datetime) -> list[Any]:
    ready = f"{part(obj, 'status').get('readyReplicas', 0)}/{part(obj, 'spec').get('replicas', 1)}"
    return [name(obj), ready, age(obj, now), *containers(obj, *_TEMPLATE)]


def _daemon_set(obj: Object, now: datetime) -> list[Any]:
    status = part(obj, "status")
    return [
        name(obj),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        labels(part(obj, *_TEMPLATE, "spec", "nodeSelector")),
        age(obj, now),
        *containers(obj, *_TEMPLATE),
        label_selector(part(obj, "spec").get("selector")),
    ]


def _controller_revision(obj: Object, now: datetime) -> list[Any]:
    owners = part(obj, "metadata", "ownerReferences") or []
    owner = next((item for item in owners if item.get("controller")), None)
    group = owner.get("apiVersion", "").rpartition("/")[0] if owner else ""
    kind = f"{owner['kind'].lower()}{'.' if group else ''}{group}/{owner['name']}" if owner else NONE
    return [name(obj), kind, obj.get("revision", 0), age(obj, now)]


def _job(obj: Object, now: datetime) -> list[Any]:
    spec, status = part(obj, "spec"), part(obj, "status")
    wanted, parallel = spec.get("completions"), spec.get("parallelism") or 0
    if wanted is None:
        wanted = f"1 of {parallel}" if parallel > 1 else 1
    started, ended = (parse_date_time(status.get(key) or "") for key in ("startTime", "completionTime"))
    duration = human_duration((ended or now) - started) if started else ""
    return [
        name(obj),
        _job_status(obj),
        f"{status.get('succeeded', 0)}/{wanted}",
        duration,
        age(obj, now),
        *containers(obj, *_TEMPLATE),
        label_selector(spec.get("selector")),
    ]


def _job_status(obj: Object) -> str:
    for kind, text in (("Complete", "Complete"), ("Failed", "Failed")):
        if condition(obj, kind).get("status") == "True":
            return text
    if part(obj, "metadata").get("deletionTimestamp"):
        return "Terminating"
    for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if condition(obj, kind).get("status") == "True":
            return kind
    return "Running"


def _cron_job(obj: Object, now: datetime) -> list[Any]:
    spec, status = part(obj, "spec"), part(obj, "status")
    last = status.get("lastScheduleTime")
    return [
        name(obj),
        spec.get("schedule", ""),
        spec.get("timeZone") or NONE,
        "True" if spec.get("suspend") else "False",
        len(status.get("active") or ()),
        since(last, now) if last else NONE,
        age(obj, now),
        *containers(obj, "spec", "jobTemplate", *_TEMPLATE),
        label_selector(part(obj, "spec", "jobTemplate", "spec").get("selector")),
    ]


def _pod_template(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), *containers(obj, "template"), labels(part(obj, "template", "metadata", "labels"))]


def _autoscaler(obj: Object, now: datetime) -> list[Any]:
    spec, status = part(obj, "spec"), part(obj, "status")
    target = spec.get("scaleTargetRef") or {}
    return [
        name(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(spec.get("metrics") or [], status.get("currentMetrics") or []),
        spec.get("minReplicas", "<unset>"),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age(obj, now),
    ]


def _targets(metrics: list[Status], current: list[Status]) -> str:
    if not metrics:
        return NONE
    texts = []
    for index, metric in enumerate(metrics[:2]):
        source = metric.get("type", "")
        key = source[:1].lower() + source[1:]
        wanted = part(metric, key, "target")
        found = part(current[index], key, "current") if index < len(current) else {}
        label = f"{part(metric, key).get('name')}: " if source in ("Resource", "ContainerResource") else ""
        texts.append(f"{label}{_metric(found) or '<unknown>'}/{_metric(wanted)}")
    more = f" + {len(metrics) - 2} more..." if len(metrics) > 2 else ""
    return joined(texts, ", ") + more


def _metric(value: Status) -> str:
    if "averageUtilization" in value:
        return f"{value['averageUtilization']}%"
    if "averageValue" in value:
        return f"{value['averageValue']} (avg)"
    return str(value.get("value", ""))


_TEMPLATE_COLUMNS = "Containers+,Images+,Selector+"
WORKLOADS: dict[tuple[str, str], Printer] = {
    ("", "Pod"): printer("Name,Ready,Status,Restarts,Age,IP+,Node+,Nominated Node+,Readiness Gates+", _pod),
    ("", "PodTemplate"): printer("Name,Containers,Images,Pod Labels", _pod_template),
    ("", "ReplicationController"): printer(f"Name,Desired#,Current#,Ready#,Age,{_TEMPLATE_COLUMNS}", _replica_set),
    ("apps", "ControllerRevision"): printer("Name,Controller,Revision#,Age", _controller_revision),
    ("apps", "DaemonSet"): printer(
        f"Name,Desired#,Current#,Ready#,Up-to-date#,Available#,Node Selector,Age,{_TEMPLATE_COLUMNS}", _daemon_set
    ),
    ("apps", "Deployment"): printer(f"Name,Ready,Up-to-date#,Available#,Age,{_TEMPLATE_COLUMNS}", _deployment),
    ("apps", "ReplicaSet"): printer(f"Name,Desired#,Current#,Ready#,Age,{_TEMPLATE_COLUMNS}", _replica_set),
    ("apps", "StatefulSet"): printer("Name,Ready,Age,Containers+,Images+", _stateful_set),
    ("autoscaling", "HorizontalPodAutoscaler"): printer(
        "Name,Reference,Targets,MinPods,MaxPods#,Replicas#,Age", _autoscaler
    ),
    ("batch", "CronJob"): printer(
        f"Name,Schedule,Timezone,Suspend,Active#,Last Schedule,Age,{_TEMPLATE_COLUMNS}", _cron_job
    ),
    ("batch", "Job"): printer(f"Name,Status,Completions,Duration,Age,{_TEMPLATE_COLUMNS}", _job),
}
