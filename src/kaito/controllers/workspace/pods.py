"""Why pods are not ready, in words for a condition. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kaito.runtime import Manifest

OUT_OF_MEMORY = "ContainerOOMKilled"
IMAGE_PULL = "ImagePullError"
START = "ContainerStartError"
CRASH_LOOP = "ContainerCrashLoopBackOff"
DISK = "NodeDiskPressure"
MEMORY = "NodeMemoryPressure"
EVICTED = "PodEvicted"
UNSCHEDULABLE = "Unschedulable"

CLASSES = (OUT_OF_MEMORY, IMAGE_PULL, START, CRASH_LOOP, DISK, MEMORY, EVICTED, UNSCHEDULABLE)
"""Reasons of conditions, the one to tell first."""

_WAITING: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ErrImageNeverPull",
            "ErrImagePull",
            "ImageInspectError",
            "ImagePullBackOff",
            "InvalidImageName",
            "RegistryUnavailable",
        ),
        IMAGE_PULL,
    ),
    **dict.fromkeys(
        (
            "CreateContainerConfigError",
            "CreateContainerError",
            "PostStartHookError",
            "PreCreateHookError",
            "PreStartHookError",
            "RunContainerError",
        ),
        START,
    ),
    "CrashLoopBackOff": CRASH_LOOP,
}
_PASSING = frozenset({"ContainerCreating", "PodInitializing"})

_HINTS: Mapping[str, str] = {
    OUT_OF_MEMORY: "the container ran out of memory; use a larger instance type or a smaller model",
    IMAGE_PULL: "check the image's name and the pull secrets",
    START: "check the Secrets and ConfigMaps that the container needs",
    CRASH_LOOP: "its log says why (kubectl logs --previous)",
    DISK: "the node's disk is too small for the image or the model",
}


@dataclass(frozen=True, slots=True)
class Problem:
    reason: str
    """The reason for a condition: one of ``CLASSES``, or empty for what may pass by itself."""
    message: str

    @property
    def failing(self) -> bool:
        """Whether a person has to look into it."""
        return self.reason not in ("", UNSCHEDULABLE)

    def __str__(self) -> str:
        return self.message


def worst_problem(pods: Iterable[Manifest]) -> Problem | None:
    """The problem to tell of: by class, then by the names of the pods."""
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    living.sort(key=lambda pod: str(pod["metadata"]["name"]))
    problems = [problem for pod in living for problem in _problems(pod)]
    rank = {reason: position for position, reason in enumerate(CLASSES)}
    return min(problems, key=lambda problem: rank.get(problem.reason, len(rank)), default=None)


def _problems(pod: Manifest) -> Iterator[Problem]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("phase") == "Failed":
        yield _failed(f"pod {name}", status)
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            reason = condition.get("reason") or UNSCHEDULABLE
            yield _problem(
                UNSCHEDULABLE if reason == UNSCHEDULABLE else "", reason, f"pod {name}", condition.get("message")
            )
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if not container.get("ready"):
                yield from _container_problems(f"container {container.get('name')} of pod {name}", container)


def _failed(where: str, status: Mapping[str, Any]) -> Problem:
    reason, message = status.get("reason") or "Failed", status.get("message") or ""
    if reason != "Evicted":
        return _problem(EVICTED if reason in ("Preempting", "NodeLost") else "", reason, where, message)
    lowered = message.lower()
    if "disk" in lowered or "ephemeral-storage" in lowered:
        return _problem(DISK, reason, where, message)
    return _problem(MEMORY if "memory" in lowered else EVICTED, reason, where, message)


def _container_problems(where: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    state = container.get("state") or {}
    for ended in (state.get("terminated"), (container.get("lastState") or {}).get("terminated")):
        if ended and ended.get("reason") == "OOMKilled":
            yield _problem(OUT_OF_MEMORY, "OOMKilled", where, ended.get("message"))
            return
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason") or ""
    if reason and reason not in _PASSING:
        yield _problem(_WAITING.get(reason, ""), reason, where, waiting.get("message"))
    ended = state.get("terminated") or {}
    if ended.get("exitCode"):
        message = ended.get("message") or f"exit code {ended['exitCode']}"
        yield _problem("", ended.get("reason") or "Error", where, message)


def _problem(class_: str, reason: str, where: str, message: str | None) -> Problem:
    parts = [part for part in (message, _HINTS.get(class_)) if part]
    return Problem(class_, f"{reason}: {where}: {'; '.join(parts)}" if parts else f"{reason}: {where}")
