"""Steps of a reconcile, and how their outcomes become conditions.

Steps run in order and the first that does not proceed is the last that runs; the conditions of the later ones say what
they are waiting for. A step never writes status and never sleeps: it returns, and an event or ``requeue_after`` brings
the Machine back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from kaito.api.machine import MachineCondition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kaito.api.meta import ConditionStatus
    from kaito.controllers.machine.context import MachineContext


@dataclass(frozen=True, slots=True)
class Proceed:
    """The step's condition is True."""

    note: str
    """What to tell when it has just become so."""


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
    """Something is wrong, and will be tried again."""

    reason: str
    message: str
    requeue_after: float


Outcome = Proceed | Wait | Fail


class Step(Protocol):
    condition: ClassVar[str]
    """The condition that the step answers for."""
    missing: ClassVar[tuple[str, str]]
    """Reason and message of the later steps' conditions while this one's does not hold."""

    async def reconcile(self, ctx: MachineContext) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a run of the pipeline has found."""

    findings: tuple[MachineCondition, ...]
    """Without times."""
    stop: Wait | Fail | None = None
    notes: dict[str, str] = field(default_factory=dict)
    """What to tell of each condition that holds."""


async def run(steps: Sequence[Step], ctx: MachineContext) -> Report:
    """Run ``steps`` until one does not proceed. Errors are raised, and leave the status alone."""
    findings: list[MachineCondition] = []
    notes: dict[str, str] = {}
    for position, step in enumerate(steps):
        outcome = await step.reconcile(ctx)
        if isinstance(outcome, Proceed):
            findings.append(MachineCondition(type=step.condition, status="True"))
            notes[step.condition] = outcome.note
            continue
        status = outcome.status if isinstance(outcome, Wait) else "False"
        findings.append(_condition(step.condition, status, outcome.reason, outcome.message))
        findings += (_condition(later.condition, "False", *step.missing) for later in steps[position + 1 :])
        return Report(tuple(findings), outcome, notes)
    return Report(tuple(findings), None, notes)


def _condition(type_: str, status: ConditionStatus, reason: str, message: str) -> MachineCondition:
    return MachineCondition(type=type_, status=status, reason=reason, message=message)
