"""Setting and finding conditions. Pure: the time is an argument, and nothing is changed in place.

Three conventions exist. ``metav1`` conditions (Workspace) move ``lastTransitionTime`` only when the status changes and
carry ``observedGeneration``. The Machine kind follows knative: any change moves the time, the list is sorted by type,
and one condition (``Ready``) sums up the others. NodeClaim has such a sum of metav1 conditions, all of which are there from
the first write on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from kaito.api import machine, nodeclaim
from kaito.api.machine import MachineCondition
from kaito.api.meta import Condition, ConditionStatus, timestamp
from kaito.api.nodeclaim import NodeClaimCondition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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
        """``conditions`` with those of ``found``, which need no time, and their sum; sorted by type.

        A ``summary`` among ``found`` is taken at its word.
        """
        merged = {condition.type: condition for condition in conditions or ()}
        given = tuple(found)
        for condition in given:
            _put(merged, condition, now)
        if not any(condition.type == self.summary for condition in given):
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


@dataclass(frozen=True, slots=True)
class StatusConditions:
    """The conditions of a NodeClaim: ``summary`` is True when every one of ``dependents`` is, for the present generation."""

    summary: str
    dependents: tuple[str, ...]

    def update(
        self,
        conditions: Sequence[NodeClaimCondition] | None,
        found: Iterable[NodeClaimCondition],
        *,
        generation: int,
        created: datetime,
        now: datetime,
    ) -> tuple[NodeClaimCondition, ...]:
        """``conditions`` with those of ``found``, which need neither time nor generation, and their sum.

        The oldest change comes first, and the sum last. What nobody has found yet is Unknown since the object was
        ``created``.
        """
        merged = {condition.type: condition for condition in conditions or ()}
        for type_ in (*self.dependents, self.summary):
            merged.setdefault(
                type_,
                NodeClaimCondition(
                    type=type_,
                    status="Unknown",
                    observed_generation=generation,
                    last_transition_time=timestamp(created),
                    reason="AwaitingReconciliation",
                    message="object is awaiting reconciliation",
                ),
            )
        given = {condition.type: condition for condition in found}
        for condition in (
            *given.values(),
            *(() if self.summary in given else (self._sum(merged | given, given, generation),)),
        ):
            old = merged.get(condition.type)
            stays = old is not None and old.status == condition.status
            merged[condition.type] = NodeClaimCondition(
                type=condition.type,
                status=condition.status,
                observed_generation=generation,
                last_transition_time=old.last_transition_time if old and stays else timestamp(now),
                reason=condition.reason or (condition.type if condition.status == "True" else "Unknown"),
                message=condition.message or "",
            )
        whole = merged.pop(self.summary)
        return (*sorted(merged.values(), key=lambda condition: condition.last_transition_time), whole)

    def _sum(
        self, conditions: Mapping[str, NodeClaimCondition], fresh: Mapping[str, NodeClaimCondition], generation: int
    ) -> NodeClaimCondition:
        open_ = [conditions[type_] for type_ in self.dependents if conditions[type_].status != "True"]
        stale = [
            conditions[type_]
            for type_ in self.dependents
            if type_ not in fresh and conditions[type_].observed_generation != generation
        ]
        said = ", ".join(f"{condition.type}={condition.status}" for condition in (*open_, *stale))
        if not said:
            return NodeClaimCondition(type=self.summary, status="True", reason=self.summary)
        if any(condition.status == "False" and condition not in stale for condition in open_):
            return NodeClaimCondition(type=self.summary, status="False", reason="UnhealthyDependents", message=said)
        return NodeClaimCondition(type=self.summary, status="Unknown", reason="ReconcilingDependents", message=said)


MACHINE_CONDITIONS = ConditionSet(machine.READY, (machine.LAUNCHED, machine.REGISTERED, machine.INITIALIZED))
"""The living conditions of a Machine and their sum."""
NODE_CLAIM_CONDITIONS = StatusConditions(
    nodeclaim.READY, (nodeclaim.LAUNCHED, nodeclaim.REGISTERED, nodeclaim.INITIALIZED)
)
"""Those of a NodeClaim."""
