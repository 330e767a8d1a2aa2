"""Setting and finding conditions. Pure: the time is an argument, and nothing is changed in place.

Two conventions exist. ``metav1`` conditions (Workspace) move ``lastTransitionTime`` only when the status changes and
carry ``observedGeneration``. The Machine kind follows knative: any change moves the time, the list is sorted by type,
and one condition (``Ready``) sums up the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from kaito.api.machine import MachineCondition
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
    """A knative condition set: ``summary`` is True when every one of ``dependents`` is."""

    summary: str
    dependents: tuple[str, ...]

    def mark_true(
        self, conditions: Sequence[MachineCondition] | None, type_: str, *, now: datetime
    ) -> tuple[MachineCondition, ...]:
        marked = self._put(tuple(conditions or ()), type_, "True", "", "", now)
        unhappy = self._unhappy(marked)
        if unhappy is not None:
            return self._put(marked, self.summary, unhappy.status, unhappy.reason or "", unhappy.message or "", now)
        if any(find(marked, dependent) is None for dependent in self.dependents):
            return self._put(marked, self.summary, "Unknown", "", "", now)
        return self._put(marked, self.summary, "True", "", "", now)

    def mark_false(
        self, conditions: Sequence[MachineCondition] | None, type_: str, reason: str, message: str, *, now: datetime
    ) -> tuple[MachineCondition, ...]:
        """A False dependent carries its reason and message over to the summary; the last one marked wins."""
        marked = self._put(tuple(conditions or ()), type_, "False", reason, message, now)
        return self._put(marked, self.summary, "False", reason, message, now) if type_ in self.dependents else marked

    def mark_unknown(
        self, conditions: Sequence[MachineCondition] | None, type_: str, reason: str, message: str, *, now: datetime
    ) -> tuple[MachineCondition, ...]:
        marked = self._put(tuple(conditions or ()), type_, "Unknown", reason, message, now)
        if type_ not in self.dependents:
            return marked
        failed = self._newest(marked, "False")
        if failed is not None:
            return self._put(marked, self.summary, "False", failed.reason or "", failed.message or "", now)
        return self._put(marked, self.summary, "Unknown", reason, message, now)

    def _unhappy(self, conditions: tuple[MachineCondition, ...]) -> MachineCondition | None:
        return self._newest(conditions, "False") or self._newest(conditions, "Unknown")

    def _newest(self, conditions: tuple[MachineCondition, ...], status: ConditionStatus) -> MachineCondition | None:
        matching = [found for found in conditions if found.type in self.dependents and found.status == status]
        return max(matching, key=lambda condition: condition.last_transition_time or "", default=None)

    def _put(
        self,
        conditions: tuple[MachineCondition, ...],
        type_: str,
        status: ConditionStatus,
        reason: str,
        message: str,
        now: datetime,
    ) -> tuple[MachineCondition, ...]:
        severity = None if type_ == self.summary or type_ in self.dependents else "Info"
        old = find(conditions, type_)
        if old is not None and (old.status, old.reason or "", old.message or "", old.severity) == (
            status,
            reason,
            message,
            severity,
        ):
            return conditions
        values = {"reason": reason, "message": message, "severity": severity}
        changed = MachineCondition(
            type=type_,
            status=status,
            last_transition_time=timestamp(now),
            **{name: value for name, value in values.items() if value},
        )
        others = [condition for condition in conditions if condition.type != type_]
        return tuple(sorted([*others, changed], key=lambda condition: condition.type))


MACHINE_CONDITIONS = ConditionSet("Ready", ("MachineLaunched", "MachineRegistered", "MachineInitialized"))
"""The living conditions of a Machine and their sum."""
