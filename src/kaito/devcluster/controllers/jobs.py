"""Jobs: pods that run to completion, with parallelism, retries, deadlines and a time to live.

Looser than kube-controller-manager: finished pods are counted as they are found, without the tracking finalizer, so one
that is deleted before its Job has finished runs again; ``podFailurePolicy``, ``successPolicy`` and
``backoffLimitPerIndex`` do not act. CronJobs are stored and never start anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from kaito.devcluster.controllers import conditions, pods
from kaito.devcluster.controllers.workloads import Workload
from kaito.runtime import (
    JOBS,
    LabelSelector,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    format_time,
    owner_reference,
    parse_time,
)

INDEX = "batch.kubernetes.io/job-completion-index"
BACKOFF, MAX_BACKOFF = 10.0, 600.0
"""Seconds before the first retry after a failure, doubled for each further one up to the second number."""


@dataclass(frozen=True, slots=True)
class Plan:
    status: Manifest
    create: tuple[int | None, ...] = ()
    """One for each pod: its completion index, None for a Job without indexes."""
    delete: tuple[Manifest, ...] = ()
    again: float | None = None
    """Seconds until waiting alone changes something."""
    event: tuple[Literal["Normal", "Warning"], str, str] | None = None
    """Type, reason and note of what has just come about."""


def index_of(pod: Mapping[str, Any]) -> int | None:
    text = (pod["metadata"].get("annotations") or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def ended(job: Mapping[str, Any]) -> Manifest | None:
    """The condition with which the Job finished."""
    return next((conditions.find(job, kind) for kind in ("Complete", "Failed") if conditions.is_true(job, kind)), None)


def plan(job: Manifest, owned: Sequence[Manifest], now: datetime) -> Plan:
    spec, before = job["spec"], job.get("status") or {}
    active = [pod for pod in owned if pods.is_active(pod)]
    succeeded = [pod for pod in owned if pods.phase(pod) == "Succeeded"]
    failed = [pod for pod in owned if pods.phase(pod) == "Failed"]
    indexed = spec.get("completionMode") == "Indexed"
    done = {index for pod in succeeded if (index := index_of(pod)) is not None}
    count = len(done) if indexed else len(succeeded)
    status: Manifest = {
        **{name: before[name] for name in ("conditions", "startTime", "completionTime") if name in before},
        "ready": sum(map(pods.is_ready, active)),
        "terminating": sum(pods.is_deleting(pod) and not pods.is_finished(pod) for pod in owned),
        "uncountedTerminatedPods": {},
    }
    counts = {"active": len(active), "succeeded": count, "failed": len(failed)}
    status |= {name: number for name, number in counts.items() if number}
    if indexed and done:
        status["completedIndexes"] = ranges(done)
    if ended(job) is not None:
        return Plan(status, delete=tuple(active))
    if spec.get("suspend"):
        return _suspended(status, active, now)
    status.setdefault("startTime", format_time(now))
    known = status.get("conditions") or []
    if any(item["type"] == "Suspended" for item in known):
        status["conditions"] = conditions.put(known, "Suspended", "False", "JobResumed", "Job resumed", now)
    verdict = _verdict(job, status, active, failed, count, now)
    if verdict is not None:
        return _finish(job, status, active, *verdict, now)
    create, again = _wanted(spec, active, failed, done, count, now)
    surplus = _surplus(spec, active, count)
    deadline = _deadline_in(spec, status, now)
    return Plan(status, create, surplus, min((wait for wait in (again, deadline) if wait), default=None))


def _verdict(
    job: Manifest, status: Manifest, active: Sequence[Manifest], failed: Sequence[Manifest], count: int, now: datetime
) -> tuple[str, str, str] | None:
    """Condition type, reason and message of a Job that is over."""
    spec = job["spec"]
    restarts = sum(
        item.get("restartCount", 0)
        for pod in active
        if pod["spec"].get("restartPolicy") == "OnFailure"
        for item in (pod.get("status") or {}).get("containerStatuses") or ()
    )
    limit = spec.get("backoffLimit", 6)
    if len(failed) > limit or (restarts and restarts >= max(1, limit)):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if _deadline_in(spec, status, now) == 0:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    completions = spec.get("completions")
    if (count >= completions) if completions is not None else (count > 0 and not active):
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    return None


def _finish(
    job: Manifest, status: Manifest, active: Sequence[Manifest], kind: str, reason: str, message: str, now: datetime
) -> Plan:
    """First that it is decided, then, in the same write, that it is over."""
    known = status.get("conditions") or []
    criteria = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
    for each in (criteria, kind):
        known = conditions.put(known, each, "True", reason, message, now)
    status = {**status, "conditions": known}
    status.pop("active", None)
    status["ready"] = 0
    if kind == "Complete":
        status["completionTime"] = format_time(now)
        return Plan(status, delete=tuple(active), event=("Normal", "Completed", "Job completed"))
    return Plan(status, delete=tuple(active), event=("Warning", reason, message))


def _suspended(status: Manifest, active: Sequence[Manifest], now: datetime) -> Plan:
    known = status.get("conditions") or []
    said = conditions.put(known, "Suspended", "True", "JobSuspended", "Job suspended", now)
    status = {name: value for name, value in status.items() if name not in ("startTime", "active")}
    step = Plan({**status, "conditions": said}, delete=tuple(active))
    return step if said == known else replace(step, event=("Normal", "Suspended", "Job suspended"))


def _wanted(
    spec: Mapping[str, Any],
    active: Sequence[Manifest],
    failed: Sequence[Manifest],
    done: set[int],
    count: int,
    now: datetime,
) -> tuple[tuple[int | None, ...], float | None]:
    """The pods to create now, and the seconds until there may be more."""
    parallelism, completions = spec.get("parallelism", 1), spec.get("completions")
    if completions is None:
        # Without a number, one success says that the work is done: what runs may finish, nothing new starts.
        missing = 0 if count else parallelism - len(active)
    else:
        missing = min(parallelism, completions - count) - len(active)
    if missing <= 0:
        return (), None
    delay = retry_in(failed, now)
    if delay:
        return (), delay
    if spec.get("completionMode") != "Indexed":
        return (None,) * missing, None
    taken = done | {index for pod in active if (index := index_of(pod)) is not None}
    return tuple(index for index in range(completions or 0) if index not in taken)[:missing], None


def retry_in(failed: Sequence[Manifest], now: datetime) -> float:
    """Seconds until a failed pod is replaced, counted from the last failure."""
    if not failed:
        return 0.0
    delay = min(MAX_BACKOFF, BACKOFF * 2.0 ** min(len(failed) - 1, 10))
    latest = max(_failed_at(pod) for pod in failed)
    return max(0.0, delay - (now - latest).total_seconds())


def _failed_at(pod: Mapping[str, Any]) -> datetime:
    times = [
        terminated["finishedAt"]
        for item in (pod.get("status") or {}).get("containerStatuses") or ()
        if (terminated := (item.get("state") or {}).get("terminated")) and terminated.get("finishedAt")
    ]
    return parse_time(max(times, default=pod["metadata"]["creationTimestamp"]))


def _surplus(spec: Mapping[str, Any], active: Sequence[Manifest], count: int) -> tuple[Manifest, ...]:
    completions = spec.get("completions")
    limit = spec.get("parallelism", 1)
    if completions is not None:
        limit = min(limit, completions - count)
    elif count:
        limit = len(active)
    return tuple(pods.deletion_order(active)[: max(0, len(active) - limit)])


def _deadline_in(spec: Mapping[str, Any], status: Mapping[str, Any], now: datetime) -> float | None:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is None or "startTime" not in status:
        return None
    return max(0.0, float(seconds) - (now - parse_time(status["startTime"])).total_seconds())


def expires_in(job: Mapping[str, Any], now: datetime) -> float | None:
    """Seconds that a finished Job has left by ``ttlSecondsAfterFinished``."""
    finished, seconds = ended(job), job["spec"].get("ttlSecondsAfterFinished")
    if finished is None or seconds is None:
        return None
    return max(0.0, float(seconds) - (now - parse_time(finished["lastTransitionTime"])).total_seconds())


def ranges(indexes: Iterable[int]) -> str:
    """``0-2,4`` for 0, 1, 2 and 4."""
    groups: list[list[int]] = []
    for index in sorted(indexes):
        if groups and groups[-1][-1] == index - 1:
            groups[-1].append(index)
        else:
            groups.append([index])
    return ",".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)


class Jobs(Workload):
    name = "job-controller"
    resource = JOBS

    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        if meta.deleting:
            return None
        left = expires_in(workload, self.clock.now())
        if left == 0:
            with contextlib.suppress(NotFound):
                await self.client.delete(JOBS, meta.name, meta.namespace, uid=meta.uid, propagation="Foreground")
            return None
        step = plan(workload, owned, self.clock.now())
        for pod in step.delete:
            await self.delete_pod(meta, pod)
        for index in step.create:
            await self.create_pod(meta, new_pod(workload, meta, index))
        status = dict(step.status)
        if step.create:
            status["active"] = status.get("active", 0) + len(step.create)
        if status != (workload.get("status") or {}):
            left = expires_in({**workload, "status": status}, self.clock.now())
        await self.report(workload, status)
        if step.event is not None:
            self.recorder.event(ObjectReference.of(JOBS, meta), *step.event)
        again = min((wait for wait in (step.again, left) if wait is not None), default=None)
        return None if again is None else max(again, 0.001)


def new_pod(job: Manifest, meta: ObjectMeta, index: int | None) -> Manifest:
    infix = "" if index is None else f"{index}-"
    labels = {} if index is None else {INDEX: str(index)}
    pod = pods.from_template(
        job["spec"]["template"], owner_reference(JOBS, meta), generate_name=f"{meta.name}-{infix}", labels=labels
    )
    if index is not None:
        pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), INDEX: str(index)}
        pod["spec"]["hostname"] = f"{meta.name}-{index}"
        variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        for container in (*pod["spec"].get("containers", ()), *(pod["spec"].get("initContainers") or ())):
            container["env"] = [*(container.get("env") or ()), variable]
    return pod


def setup(manager: Manager) -> None:
    Jobs(manager).add_to(manager)
