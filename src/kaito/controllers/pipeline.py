"""Steps of a reconcile, how their outcomes become conditions, and the one write of status.

Steps run in order and the first that does not proceed is the last that runs; the conditions of the later ones say what
they are waiting for. A step never writes status and never sleeps: it returns, and an event or ``requeue_after`` brings the
object back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from kaito.runtime import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    RequestTooLarge,
    Result,
    TerminalError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kaito.api.meta import ConditionStatus, Model, ObjectMeta
    from kaito.runtime import Client, Resource

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
    """Something is wrong. ``terminal``: nothing but a change of the object can mend it."""

    reason: str
    message: str
    requeue_after: float | None = None
    """Seconds until it is tried again where no event will come."""
    terminal: bool = False


Stop = Wait | Fail
Outcome = Proceed | Stop

ContextT = TypeVar("ContextT", contravariant=True)


class Step(Protocol[ContextT]):
    condition: ClassVar[str]
    """The condition that the step answers for; empty for a step without one."""
    failed: ClassVar[str]
    """Reason of the condition where the API server refuses what the step wants."""

    async def reconcile(self, ctx: ContextT) -> Outcome: ...


StepT = TypeVar("StepT", bound=Step[Any])


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
    stop: Stop | None = None
    error: ApiError | None = None
    """The refusal behind ``stop``."""

    def result(self) -> Result | None:
        """When to look again. Raises the refusal, so that the object is tried again, and TerminalError."""
        if self.error is not None:
            raise self.error
        if isinstance(self.stop, Fail) and self.stop.terminal:
            raise TerminalError(self.stop.message)
        if self.stop is not None and self.stop.requeue_after is not None:
            return Result(requeue_after=self.stop.requeue_after)
        return None


async def run(steps: Sequence[StepT], ctx: Any, held_up: Callable[[StepT, StepT, Stop], tuple[str, str]]) -> Report:
    """Run ``steps`` until one does not proceed. Errors other than refusals are raised, and leave the status alone.

    ``held_up`` gives reason and message of a later step's condition: from the step that stopped, the later one, and why.
    """
    findings: list[Finding] = []
    for position, step in enumerate(steps):
        error: ApiError | None = None
        try:
            outcome = await step.reconcile(ctx)
        except REFUSALS as refusal:
            error = refusal
            outcome = Fail(step.failed, refusal.message)
        if step.condition:
            findings.append(_finding(step.condition, outcome))
        if isinstance(outcome, Proceed):
            continue
        findings += (
            Finding(later.condition, "False", *held_up(step, later, outcome))
            for later in steps[position + 1 :]
            if later.condition
        )
        return Report(tuple(findings), outcome, error)
    return Report(tuple(findings))


def _finding(condition: str, outcome: Outcome) -> Finding:
    status: ConditionStatus = "False"
    if isinstance(outcome, Proceed):
        status = "True"
    elif isinstance(outcome, Wait):
        status = outcome.status
    return Finding(condition, status, outcome.reason, outcome.message)


class Reported(Protocol):
    """An object with a status."""

    @property
    def metadata(self) -> ObjectMeta: ...

    @property
    def status(self) -> Model: ...


ReportedT = TypeVar("ReportedT", bound=Reported)


async def write_status(client: Client, resource: Resource[ReportedT], before: ReportedT, status: Model) -> bool:
    """Bring the status of ``before`` up to ``status`` with one patch; False, and no request, where it is so already."""
    patch = status_patch(before, status)
    if patch is None:
        return False
    metadata = before.metadata
    await client.patch(resource, metadata.name, patch, namespace=metadata.namespace, subresource="status")
    return True


def status_patch(before: Reported, status: Model) -> dict[str, Any] | None:
    """A merge patch that brings the status up to ``status``; None where it is so already.

    The uid guards an object of the same name that was made in the meantime.
    """
    if before.status == status:
        return None
    old, new = before.status.to_manifest(), status.to_manifest()
    changed = {key: _replaced(old.get(key), value) for key, value in new.items() if old.get(key) != value}
    return {"metadata": {"uid": before.metadata.uid}, "status": changed} if changed else None


def _replaced(before: Any, after: Any) -> Any:
    """What a merge patch must say of a map so that nothing of the old one stays."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    return {key: after.get(key) for key in (*before, *after)}


EventKind = Literal["Normal", "Warning"]


class Told(NamedTuple):
    """An Event that a change of status is worth."""

    type: EventKind
    reason: str
    note: str
