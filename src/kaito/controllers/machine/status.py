"""From what was found to status, and from changes of status to Events. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.controllers.machine.claims import (
    DRAINED,
    DRIFTED,
    INITIALIZED,
    LAUNCHED,
    NODE_READY,
    READY,
    REGISTERED,
    Claim,
)
from kaito.controllers.machine.drain import BLOCKED
from kaito.controllers.machine.launch import LAUNCH_FAILED, LAUNCHING, REPLACED
from kaito.controllers.pipeline import Finding, Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from kaito.api.meta import Model

TOLD = (LAUNCHED, REGISTERED, INITIALIZED, READY)
"""Conditions whose becoming True is worth an Event of the same name, in order."""


def next_status(
    claim: Claim,
    findings: Sequence[Finding],
    now: datetime,
    *,
    observed: Mapping[str, Any] | None = None,
    dropped: Iterable[str] = (),
) -> Model:
    """The status of ``claim`` with ``findings`` and with ``observed`` fields; None among these removes a field."""
    conditions = claim.kind.conditions(claim, findings, dropped, now)
    return claim.object.status.model_copy(update={**(observed or {}), "conditions": conditions})


def judged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings with Ready among them where it is not the sum of the others: what was initialized stays so, but is not
    Ready while its Node is not."""
    found = {entry.type: entry for entry in findings}
    sick = found.get(NODE_READY)
    good = all(name in found and found[name].status == "True" for name in (LAUNCHED, REGISTERED, INITIALIZED))
    if sick is None or sick.status == "True" or not good:
        return tuple(findings)
    return (*findings, Finding(READY, "False", sick.reason, sick.message))


def ending(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings about a claim that is being deleted, which is not Ready whatever it was."""
    open_ = next((entry.message for entry in findings if entry.status != "True"), "")
    words = f"it is being deleted: {open_}" if open_ else "it is being deleted"
    return (*findings, Finding(READY, "False", "Terminating", words))


def became_true(old: Claim, new: Claim) -> list[str]:
    """The conditions among ``TOLD`` that have become True."""
    return [name for name in TOLD if new.holds(name) and not old.holds(name)]


def transitions(old: Claim, new: Claim, findings: Sequence[Finding]) -> Iterator[Told]:
    """The Events that a change of conditions is worth."""
    notes = {found.type: found.message for found in findings}
    before, after = old.said(LAUNCHED), new.said(LAUNCHED)
    if after is not None and (before is None or (after.reason, after.message) != (before.reason, before.message)):
        if after.reason in (LAUNCH_FAILED, *REPLACED):
            yield Told("Warning", after.reason, after.message)
        elif after.reason == LAUNCHING and (before is None or before.reason != LAUNCHING):
            yield Told("Normal", LAUNCHING, after.message)
    for name in became_true(old, new):
        yield Told("Normal", name, f"Node {new.node_name} is ready for the workload" if name == READY else notes[name])
    sick, blocked = new.said(NODE_READY), new.said(DRAINED)
    if old.holds(NODE_READY) and sick is not None and sick.status == "False":
        yield Told("Warning", "NodeNotReady", sick.message)
    was_blocked = (said := old.said(DRAINED)) is not None and said.reason == BLOCKED
    if blocked is not None and blocked.reason == BLOCKED and not was_blocked:
        yield Told("Warning", "FailedDraining", blocked.message)
    drifted = new.said(DRIFTED)
    if drifted is not None and not old.holds(DRIFTED):
        yield Told("Warning", DRIFTED, notes.get(DRIFTED, ""))
