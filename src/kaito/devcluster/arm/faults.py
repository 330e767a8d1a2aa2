"""Faults for tests: requests that are refused, delayed or cut, and operations that go wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kaito.devcluster.arm.errors import ArmError

When = Literal["before", "after"]


@dataclass(slots=True)
class Fault:
    """What happens to matching requests: first the ``delay`` (seconds), then the ``error``, or with ``drop`` the connection
    is cut, before the request is carried out or after it."""

    method: str = "*"
    """GET, LIST, PUT, DELETE or ``*``."""
    pool: str = ""
    """Only requests for this pool; ``""`` for all."""
    error: ArmError | None = None
    delay: float = 0.0
    drop: When | None = None
    count: int = 1
    """How many requests are hit; -1 for all until the faults are cleared."""
    hits: int = 0

    def matches(self, method: str, pool: str) -> bool:
        return self.count != 0 and self.method in ("*", method) and self.pool in ("", pool)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the creation of a pool goes."""

    error: ArmError | None = None
    """The pool ends as Failed, for this reason."""
    stuck: bool = False
    """It never ends."""
    nodes: int | None = None
    """Nodes that join: None for as many as the pool counts."""


class ConnectionDropped(Exception):
    """The request is to get no answer."""


class Faults:
    """The first fault that matches applies to a request; plans apply to the creations of a pool by name, in order."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._plans: list[tuple[str, Plan]] = []

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def plan(self, plan: Plan, *, pool: str = "") -> None:
        """The next creation of ``pool``, or of any, goes as planned."""
        self._plans.append((pool, plan))

    def clear(self) -> None:
        self._faults.clear()
        self._plans.clear()

    def next_plan(self, pool: str) -> Plan:
        for position, (name, plan) in enumerate(self._plans):
            if name in ("", pool):
                del self._plans[position]
                return plan
        return Plan()

    async def before(self, method: str, pool: str) -> Fault | None:
        """Apply what precedes the request. Raises ArmError or ConnectionDropped; returns the fault that applies."""
        fault = next((fault for fault in self._faults if fault.matches(method, pool)), None)
        if fault is None:
            return None
        fault.hits += 1
        if fault.count > 0:
            fault.count -= 1
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop == "before":
            raise ConnectionDropped
        if fault.error is not None:
            raise fault.error
        return fault
