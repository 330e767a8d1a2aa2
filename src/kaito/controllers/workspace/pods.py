"""Why pods are not ready, in words for a condition. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kaito.runtime import Manifest

FAILING = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "Evicted",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "OOMKilled",
        "RunContainerError",
    }
)
"""Reasons that a person has to look into; any other may pass by itself."""

_UNREMARKABLE = frozenset({"ContainerCreating", "PodInitializing"})

_HINTS: Mapping[str, str] = {
    "OOMKilled": "the container ran out of memory; use a larger instance type or a smaller model",
    "ImagePullBackOff": "check the image's name and the pull secrets",
}


@dataclass(frozen=True, slots=True)
class Problem:
    reason: str
    message: str

    @property
    def failing(self) -> bool:
        return self.reason in FAILING

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def worst_problem(pods: Iterable[Manifest]) -> Problem | None:
    """The problem to tell of: one that is failing before one that may pass, and pods by name."""
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    living.sort(key=lambda pod: str(pod["metadata"]["name"]))
    problems = [problem for pod in living for problem in _problems(pod)]
    return next((problem for problem in problems if problem.failing), problems[0] if problems else None)


def _problems(pod: Manifest) -> Iterator[Problem]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if status.get("phase") == "Failed":
        yield _problem(status.get("reason") or "Failed", f"pod {name}", status.get("message"))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield _problem(condition.get("reason") or "Unschedulable", f"pod {name}", condition.get("message"))
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if not container.get("ready"):
                yield from _container_problems(f"container {container.get('name')} of pod {name}", container)


def _container_problems(where: str, container: Mapping[str, Any]) -> Iterator[Problem]:
    state = container.get("state") or {}
    for ended in (state.get("terminated"), (container.get("lastState") or {}).get("terminated")):
        if ended and ended.get("reason") == "OOMKilled":
            yield _problem("OOMKilled", where, ended.get("message"))
            return
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason") or ""
    if reason and reason not in _UNREMARKABLE:
        yield _problem(reason, where, waiting.get("message"))
    ended = state.get("terminated") or {}
    if ended.get("exitCode"):
        yield _problem(ended.get("reason") or "Error", where, ended.get("message") or f"exit code {ended['exitCode']}")


def _problem(reason: str, where: str, message: str | None) -> Problem:
    parts = [part for part in (message, _HINTS.get(reason)) if part]
    return Problem(reason, f"{where}: {'; '.join(parts)}" if parts else where)
