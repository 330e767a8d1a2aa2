"""From findings to status, and from changes of status to Events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kaito.api.conditions import find, is_true, set_condition
from kaito.api.workspace import WORKSPACE_SUCCEEDED, WorkspaceStatus
from kaito.controllers.pipeline import Finding, Step, Stop, Told, Wait
from kaito.controllers.workspace.context import WorkspaceContext

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from kaito.api.meta import Condition
    from kaito.api.workspace import Workspace
    from kaito.controllers.pipeline import Report


class WorkspaceStep(Step[WorkspaceContext], Protocol):
    pending: ClassVar[str]
    """Reason of the condition while an earlier step waits; ``failed`` is also that when an earlier one has failed."""


def held_up(stopped: WorkspaceStep, later: WorkspaceStep, cause: Stop) -> tuple[str, str]:
    return later.pending if isinstance(cause, Wait) else later.failed, cause.message


def with_summary(report: Report) -> tuple[Finding, ...]:
    """What the steps have found, and what it means for the whole."""
    stop = report.stop
    if stop is None:
        whole = Finding(WORKSPACE_SUCCEEDED, "True", "workspaceSucceeded", "workspace succeeds")
    else:
        reason = "workspacePending" if isinstance(stop, Wait) else "workspaceFailed"
        whole = Finding(WORKSPACE_SUCCEEDED, "False", reason, stop.message)
    return (*report.findings, whole)


def next_status(
    workspace: Workspace,
    findings: Iterable[Finding],
    worker_nodes: tuple[str, ...] | None,
    now: datetime,
    *,
    target: int | None = None,
) -> WorkspaceStatus:
    """The status of ``workspace`` with ``findings`` as its conditions; others keep what they say."""
    conditions = workspace.status.conditions
    for found in findings:
        conditions = set_condition(
            conditions,
            found.type,
            found.status,
            found.reason,
            found.message,
            generation=workspace.metadata.generation,
            now=now,
        )
    update: dict[str, Any] = {"conditions": conditions}
    if worker_nodes is not None and worker_nodes != (workspace.status.worker_nodes or ()):
        update["worker_nodes"] = worker_nodes
    if target is not None:
        update["target_node_count"] = target
        update["state"] = state_of(workspace, workspace.status.model_copy(update=update))
    return workspace.status.model_copy(update=update)


def state_of(workspace: Workspace, status: WorkspaceStatus) -> str:
    """All of ``status`` in one word."""
    whole = find(status.conditions, WORKSPACE_SUCCEEDED)
    if workspace.tuning is not None:
        if whole is not None and whole.status == "True":
            return "Succeeded"
        if whole is not None and whole.reason == "workspaceFailed":
            return "Failed"
        return "Running" if is_true(status.conditions, "JobStarted") else "Pending"
    if whole is not None and whole.status == "True":
        return "Ready"
    return "NotReady" if workspace.status.state in ("Ready", "NotReady") else "Pending"


def only_words(old: WorkspaceStatus, new: WorkspaceStatus) -> bool:
    """Whether nothing differs but what conditions say in their messages: how far something has come."""
    if old.model_copy(update={"conditions": None}) != new.model_copy(update={"conditions": None}):
        return False
    return [_kind(condition) for condition in old.conditions or ()] == [
        _kind(condition) for condition in new.conditions or ()
    ]


def _kind(condition: Condition) -> tuple[object, ...]:
    return condition.type, condition.status, condition.reason, condition.observed_generation


def transitions(old: WorkspaceStatus, new: WorkspaceStatus) -> Iterator[Told]:
    """The Events that a change of conditions is worth: the last success of those that came together, and what became of
    the whole."""
    reached: Told | None = None
    for condition in new.conditions or ():
        before = find(old.conditions, condition.type)
        if before is not None and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        whole = condition.type == WORKSPACE_SUCCEEDED
        if condition.status == "True" and reached is not None and reached.reason == "WorkspaceReady":
            continue
        if condition.status == "True":
            reached = Told("Normal", "WorkspaceReady" if whole else condition.type, condition.message)
        elif whole and condition.reason == "workspaceFailed":
            yield Told("Warning", "WorkspaceFailed", condition.message)
        elif whole and before is not None and before.status == "True":
            yield Told("Warning", "WorkspaceNotReady", condition.message)
    if reached is not None:
        yield reached
