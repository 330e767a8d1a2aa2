"""Whether the Node of a claim is well, and for how long it is borne when it is not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import NODE_READY, REGISTERED
from kaito.controllers.pipeline import Finding
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from kaito.controllers.machine.context import ClaimContext
    from kaito.runtime import Manifest

BLOCKED_RECHECK = 60.0
"""Seconds between two looks at a sick node that may not be replaced yet."""


@dataclass(frozen=True, slots=True)
class Trouble:
    reason: str
    message: str
    left: timedelta
    """Until the node is to be replaced; not above zero where that is due."""
    blocked: str = ""
    """Why it is not replaced although that is due."""

    @property
    def due(self) -> bool:
        return self.left <= timedelta(0)

    @property
    def recheck(self) -> float:
        """Seconds until the next look."""
        return BLOCKED_RECHECK if self.due else self.left.total_seconds()


def look(ctx: ClaimContext) -> Trouble | None:
    """What is wrong with the Node of a claim that has one: it is not Ready, or has vanished and no other has come."""
    claim = ctx.claim
    if not claim.launched or not claim.node_name:
        return None
    found = {nodes.name_of(node): node for node in ctx.nodes()}
    node = found.get(claim.node_name)
    grace = timedelta(seconds=ctx.settings.node_grace)
    if node is None:
        if any(not nodes.is_deleting(other) for other in found.values()):
            return None  # registration takes it
        registered = claim.said(REGISTERED)
        missed = registered is not None and registered.status != "True"
        since = registered.changed if registered is not None and missed and registered.changed else ctx.now
        return Trouble("NodeNotFound", f"Node {claim.node_name} has gone from the cluster", since + grace - ctx.now)
    if nodes.is_ready(node) or nodes.is_deleting(node):
        return None
    since, why = _not_ready_since(node, ctx.now)
    words = f"Node {claim.node_name} is not ready"
    return Trouble("NodeNotReady", f"{words}: {why}" if why else words, since + grace - ctx.now)


def finding(ctx: ClaimContext) -> Finding | None:
    """What the condition NodeReady says; None for a claim without a Node."""
    trouble = ctx.trouble
    if trouble is not None:
        words = f"{trouble.message}; not replaced: {trouble.blocked}" if trouble.blocked else trouble.message
        return Finding(NODE_READY, "False", trouble.reason, words)
    if ctx.node is None:
        return None
    name = nodes.name_of(ctx.node)
    if nodes.is_ready(ctx.node):
        return Finding(NODE_READY, "True", NODE_READY, f"Node {name} is ready")
    return Finding(NODE_READY, "False", "NodeNotReady", f"Node {name} is not ready")


def _not_ready_since(node: Manifest, now: datetime) -> tuple[datetime, str]:
    """Since when, and why in the words of the Node's own condition."""
    condition = nodes.ready_condition(node)
    text = condition.get("lastTransitionTime") or node["metadata"].get("creationTimestamp")
    why = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
    return parse_time(text) if text else now, why
