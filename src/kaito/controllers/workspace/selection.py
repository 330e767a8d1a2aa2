"""Which Nodes a Workspace keeps, waits for, gives up and may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import mismatch, unschedulable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from kaito.controllers.workspace.claims import Need
    from kaito.runtime import Manifest


@dataclass(slots=True)
class Selection:
    keep: list[Manifest] = field(default_factory=list)
    """Held, and pods can run there."""
    awaited: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Held, and not Ready for less than the grace time: why, and the seconds that are left."""
    lost: dict[str, str] = field(default_factory=dict)
    """Held, or in use before, and of no use any more: why."""
    candidates: list[Manifest] = field(default_factory=list)
    """Not held, and what the Workspace asks for; the best first."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Not held, and why they cannot be used: those that the user would think of."""

    @property
    def held(self) -> int:
        return len(self.keep) + len(self.awaited)


def select(
    nodes: Iterable[Manifest],
    need: Need,
    *,
    now: datetime,
    grace: float,
    running_on: Collection[str],
    prepared: Collection[str] | None = None,
) -> Selection:
    """Sort ``nodes`` out.

    ``grace`` is the number of seconds that a held Node may be not Ready. On the Nodes of ``running_on`` a pod of the
    Workspace runs, which a cordon or a new taint does not end. Of the Nodes that were made for the Workspace only those of
    ``prepared`` count; None for all.
    """
    found = Selection()
    for node in sorted(nodes, key=lambda node: _rank(node, need)):
        name = facts.name_of(node)
        if need.holds(node):
            _sort_held(found, node, need, now=now, grace=grace, runs=name in running_on)
        elif prepared is None or name in prepared or not need.made(node):
            if why := mismatch(node, need) or unschedulable(node, need):
                found.rejected[name] = why
            else:
                found.candidates.append(node)
    return found


def _sort_held(found: Selection, node: Manifest, need: Need, *, now: datetime, grace: float, runs: bool) -> None:
    name = facts.name_of(node)
    if node["metadata"].get("deletionTimestamp"):
        found.lost[name] = "is being deleted"
    elif not facts.is_ready(node):
        since = facts.not_ready_since(node)
        left = grace - (now - since).total_seconds() if since is not None else grace
        if left > 0:
            found.awaited[name] = ("is not Ready", left)
        else:
            found.lost[name] = f"has not been Ready for {timedelta(seconds=round(grace))}"
    elif not runs and (why := unschedulable(node, need)):
        found.lost[name] = why
    else:
        found.keep.append(node)


def _rank(node: Manifest, need: Need) -> tuple[bool, bool, bool, str]:
    return not need.holds(node), not need.prefers(node), not need.made(node), facts.name_of(node)


def describe(reasons: dict[str, str], limit: int = 3) -> str:
    """``node a is cordoned; node b is not Ready; and 2 more``."""
    said = [f"node {name} {why}" for name, why in sorted(reasons.items())]
    more = f"and {len(said) - limit} more" if len(said) > limit else ""
    return "; ".join([*said[:limit], more] if more else said)
