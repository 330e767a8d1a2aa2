"""From what the steps found to status, and from changes of status to Events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kaito.api.conditions import MACHINE_CONDITIONS, find
from kaito.api.machine import INITIALIZED, LAUNCHED, READY, REGISTERED, MachineCondition, MachineStatus
from kaito.controllers.machine.context import MachineContext
from kaito.controllers.machine.launch import LAUNCH_FAILED, LAUNCHING, REGISTRATION_TIMEOUT
from kaito.controllers.pipeline import Finding, Step, Stop, Told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from kaito.api.machine import Machine
    from kaito.controllers.pipeline import Report

TOLD = {LAUNCHED: "Launched", REGISTERED: "Registered", INITIALIZED: "Initialized", READY: "Ready"}
"""Reasons of the Events for conditions that have become True, in order."""


class MachineStep(Step[MachineContext], Protocol):
    missing: ClassVar[tuple[str, str]]
    """Reason and message of the later steps' conditions while this one's does not hold."""


def held_up(stopped: MachineStep, later: MachineStep, cause: Stop) -> tuple[str, str]:
    return stopped.missing


def next_status(machine: Machine, report: Report, observed: Mapping[str, Any], now: datetime) -> MachineStatus:
    """The status of ``machine`` with the findings of ``report`` and with ``observed`` fields."""
    found = map(_condition, report.findings)
    conditions = MACHINE_CONDITIONS.update(machine.status.conditions, found, now=now)
    return machine.status.model_copy(update={**observed, "conditions": conditions})


def _condition(found: Finding) -> MachineCondition:
    """A condition that holds says nothing more."""
    if found.status == "True":
        return MachineCondition(type=found.type, status="True")
    return MachineCondition(type=found.type, status=found.status, reason=found.reason, message=found.message)


def became_true(old: MachineStatus, new: MachineStatus) -> list[str]:
    """Types of the conditions that have become True."""
    return [type_ for type_ in TOLD if _status(new, type_) == "True" != _status(old, type_)]


def transitions(old: MachineStatus, new: MachineStatus, report: Report) -> Iterator[Told]:
    """The Events that a change of conditions is worth."""
    notes = {found.type: found.message for found in report.findings}
    before, after = find(old.conditions, LAUNCHED), find(new.conditions, LAUNCHED)
    if after is not None and after != before:
        if after.reason in (LAUNCH_FAILED, REGISTRATION_TIMEOUT):
            yield Told("Warning", after.reason, after.message or "")
        elif after.reason == LAUNCHING and (before is None or before.reason != LAUNCHING):
            yield Told("Normal", LAUNCHING, after.message or "")
    for type_ in became_true(old, new):
        note = f"Node {new.node_name} is ready for the workload" if type_ == READY else notes.get(type_, "")
        yield Told("Normal", TOLD[type_], note)


def _status(status: MachineStatus, type_: str) -> str:
    condition = find(status.conditions, type_)
    return condition.status if condition else ""
