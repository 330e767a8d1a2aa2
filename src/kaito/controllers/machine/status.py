"""From what the steps found to status, and from changes of status to Events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kaito.api.conditions import MACHINE_CONDITIONS, find
from kaito.api.machine import INITIALIZED, LAUNCHED, READY, REGISTERED, MachineStatus
from kaito.controllers.machine.context import EventKind
from kaito.controllers.machine.launch import LAUNCH_FAILED, LAUNCHING, REGISTRATION_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from kaito.api.machine import Machine
    from kaito.controllers.machine.pipeline import Report

TOLD = {LAUNCHED: "Launched", REGISTERED: "Registered", INITIALIZED: "Initialized", READY: "Ready"}
"""Reasons of the Events for conditions that have become True, in order."""


def next_status(machine: Machine, report: Report, observed: Mapping[str, Any], now: datetime) -> MachineStatus:
    """The status of ``machine`` with the findings of ``report`` and with ``observed`` fields."""
    conditions = MACHINE_CONDITIONS.update(machine.status.conditions, report.findings, now=now)
    return machine.status.model_copy(update={**observed, "conditions": conditions})


def status_patch(machine: Machine, status: MachineStatus) -> dict[str, Any] | None:
    """A merge patch that brings the status up to ``status``; None where it is so already.

    The uid guards a Machine of the same name that was made in the meantime.
    """
    before, after = machine.status.to_manifest(), status.to_manifest()
    changed = {key: _replaced(before.get(key), value) for key, value in after.items() if before.get(key) != value}
    return {"metadata": {"uid": machine.metadata.uid}, "status": changed} if changed else None


def _replaced(before: Any, after: Any) -> Any:
    """What a merge patch must say of a map so that nothing of the old one stays."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    return {key: after.get(key) for key in (*before, *after)}


class Told(NamedTuple):
    type: EventKind
    reason: str
    note: str


def became_true(old: MachineStatus, new: MachineStatus) -> list[str]:
    """Types of the conditions that have become True."""
    return [type_ for type_ in TOLD if _status(new, type_) == "True" != _status(old, type_)]


def transitions(old: MachineStatus, new: MachineStatus, notes: Mapping[str, str]) -> Iterator[Told]:
    """The Events that a change of conditions is worth."""
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
