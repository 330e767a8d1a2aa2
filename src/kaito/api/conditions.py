"""Setting and finding conditions. Pure: the time is an argument, and nothing is changed in place.

Two conventions exist. ``metav1`` conditions (Workspace) move ``lastTransitionTime`` only when the status changes and
carry ``observedGeneration``. The Machine kind follows knative: any change moves the time, the list is sorted by type,
and one condition (``Ready``) sums up the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from kaito.api.machine import INITIALIZED, LAUNCHED, READY, REGISTERED, MachineCondition
from kaito.api.meta import Condition, ConditionStatus, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime


class _Typed(Protocol):
    @property
    def type(self) -> str: ...

    @property
    def status(self) -> ConditionStatus: ...


C = TypeVar("C", bound=_Typed)


def find(conditions: Iterable[C] | None, type_: str) -> C | None:
    return next((condition for condition in conditions or () if condition.type == type_), None)


def is_true(conditions: Iterable[_Typed] | None, type_: str) -> bool:
    found = find(conditions, type_)
    return found is not None and found.status == "True"


def set_condition(
    conditions: Sequence[Condition] | None,
    type_: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """``conditions`` with one set, in its old place or at the end; equal to ``conditions`` if nothing changed."""
    present = tuple(conditions or ())
    old = find(present, type_)
    changed = Condition(
        type=type_,
        status=status,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old and old.status == status else timestamp(now),
        reason=reason,
        message=message,
    )
    if old is None:
        return (*present, changed)
    return tuple(changed if condition is old else condition for condition in present)


@dataclass(frozen=True, slots=True)
class ConditionSet:
    """A knative condition set: ``summary`` is True when every one of ``dependents`` is.

    Where knative lets the dependent that was written last speak for the whole, here the first in order that is not True
    does: it is what the others wait for.
    """

    summary: str
    dependents: tuple[str, ...]

    def update(
        self, conditions: Sequence[MachineCondition] | None, found: Iterable[MachineCondition], *, now: datetime
    ) -> tuple[MachineCondition, ...]:
        """``conditions`` with those of ``found``, which need no time, and their sum; sorted by type."""
        merged = {condition.type: condition for condition in conditions or ()}
        for condition in found:
            _put(merged, condition, now)
        _put(merged, self._sum(merged), now)
        return tuple(merged[type_] for type_ in sorted(merged))

    def _sum(self, conditions: dict[str, MachineCondition]) -> MachineCondition:
        for dependent in self.dependents:
            condition = conditions.get(dependent)
            if condition is None:
                return MachineCondition(type=self.summary, status="Unknown")
            if condition.status != "True":
                return condition.model_copy(update={"type": self.summary})
        return MachineCondition(type=self.summary, status="True")


def _put(conditions: dict[str, MachineCondition], condition: MachineCondition, now: datetime) -> None:
    old = conditions.get(condition.type)
    if old is None or _said(old) != _said(condition):
        conditions[condition.type] = condition.model_copy(update={"last_transition_time": timestamp(now)})


def _said(condition: MachineCondition) -> tuple[str, ...]:
    return condition.status, condition.reason or "", condition.message or "", condition.severity or ""


MACHINE_CONDITIONS = ConditionSet(READY, (LAUNCHED, REGISTERED, INITIALIZED))
"""The living conditions of a Machine and their sum."""
