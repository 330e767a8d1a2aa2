"""From findings to status, and from changes of status to Events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kaito.api.conditions import find, set_condition
from kaito.api.workspace import WORKSPACE_SUCCEEDED, WorkspaceStatus
from kaito.controllers.workspace.context import EventKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from kaito.api.workspace import Workspace
    from kaito.controllers.workspace.pipeline import Finding


def next_status(
    workspace: Workspace, findings: Iterable[Finding], worker_nodes: tuple[str, ...] | None, now: datetime
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
    if worker_nodes is not None:
        update["worker_nodes"] = worker_nodes
    return workspace.status.model_copy(update=update)


def status_patch(workspace: Workspace, status: WorkspaceStatus) -> dict[str, Any] | None:
    """A merge patch that brings the status up to ``status``; None where it is so already.

    The uid guards a Workspace of the same name that was made in the meantime.
    """
    before, after = workspace.status.to_manifest(), status.to_manifest()
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    return {"metadata": {"uid": workspace.metadata.uid}, "status": changed} if changed else None


class Told(NamedTuple):
    type: EventKind
    reason: str
    note: str


def transitions(old: WorkspaceStatus, new: WorkspaceStatus) -> Iterator[Told]:
    """The Events that a change of conditions is worth: every success, and what became of the whole."""
    for condition in new.conditions or ():
        before = find(old.conditions, condition.type)
        if before is not None and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        whole = condition.type == WORKSPACE_SUCCEEDED
        if condition.status == "True":
            yield Told("Normal", "WorkspaceReady" if whole else condition.type, condition.message)
        elif whole and condition.reason == "workspaceFailed":
            yield Told("Warning", "WorkspaceFailed", condition.message)
        elif whole and before is not None and before.status == "True":
            yield Told("Warning", "WorkspaceNotReady", condition.message)
