"""Steps of a reconcile, and how their outcomes become conditions.

Steps run in order and the first that does not proceed is the last that runs; the conditions of the later ones say what
they are waiting for. A step never writes status and never sleeps: it returns, and an event brings the Workspace back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from kaito.api.workspace import WORKSPACE_SUCCEEDED
from kaito.runtime import AlreadyExists, ApiError, BadRequest, Forbidden, Invalid, MethodNotAllowed, RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaito.api.meta import ConditionStatus
    from kaito.controllers.workspace.context import WorkspaceContext

REFUSALS = (AlreadyExists, BadRequest, Forbidden, Invalid, MethodNotAllowed, RequestTooLarge)
"""Answers of the API server that asking again will hardly change, so that the user should read them."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """The step's condition is True."""

    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet; nothing is wrong."""

    reason: str
    message: str
    requeue_after: float | None = None
    """Seconds until the next look where no event will come."""
    status: ConditionStatus = "False"


@dataclass(frozen=True, slots=True)
class Fail:
    """Something is wrong. ``terminal``: nothing but a change of the Workspace can mend it."""

    reason: str
    message: str
    terminal: bool = False


Outcome = Proceed | Wait | Fail


class Step(Protocol):
    condition: ClassVar[str]
    """The condition that the step answers for; empty for a step without one."""
    pending: ClassVar[str]
    """Reason of the condition while an earlier step waits."""
    failed: ClassVar[str]
    """Reason of the condition when an earlier step has failed, or the API server refuses what this one wants."""

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times."""

    type: str
    status: ConditionStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of the pipeline has found."""

    findings: tuple[Finding, ...]
    stop: Wait | Fail | None = None
    error: ApiError | None = None
    """The refusal behind ``stop``, to be raised once the status is written, so that the Workspace is tried again."""


async def run(steps: Sequence[Step], ctx: WorkspaceContext) -> Report:
    """Run ``steps`` until one does not proceed. Errors other than refusals are raised, and leave the status alone."""
    findings: list[Finding] = []
    for position, step in enumerate(steps):
        error: ApiError | None = None
        try:
            outcome = await step.reconcile(ctx)
        except REFUSALS as refusal:
            error = refusal
            outcome = Fail(step.failed, refusal.message)
        if isinstance(outcome, Proceed):
            if step.condition:
                findings.append(Finding(step.condition, "True", outcome.reason, outcome.message))
            continue
        if step.condition:
            status = outcome.status if isinstance(outcome, Wait) else "False"
            findings.append(Finding(step.condition, status, outcome.reason, outcome.message))
        findings += (_held_up(later, outcome) for later in steps[position + 1 :] if later.condition)
        reason = "workspacePending" if isinstance(outcome, Wait) else "workspaceFailed"
        findings.append(Finding(WORKSPACE_SUCCEEDED, "False", reason, outcome.message))
        return Report(tuple(findings), outcome, error)
    findings.append(Finding(WORKSPACE_SUCCEEDED, "True", "workspaceSucceeded", "workspace succeeds"))
    return Report(tuple(findings))


def _held_up(step: Step, cause: Wait | Fail) -> Finding:
    return Finding(step.condition, "False", step.pending if isinstance(cause, Wait) else step.failed, cause.message)
