"""Scripted trouble: requests that are refused, delayed or cut, and operations that go wrong."""

from __future__ import annotations

import asyncio
import random
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
    """GET, LIST, PUT or DELETE (of pools), CLUSTER, OPERATION, POST, SKUS or ``*``."""
    pool: str = ""
    """Only requests for this pool; ``""`` for all."""
    error: ArmError | None = None
    delay: float = 0.0
    drop: When | None = None
    count: int = 1
    """How many requests are hit; -1 for all until the faults are cleared."""
    share: float = 1.0
    """Which part of the matching requests is hit, by chance."""
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
    seconds: float | None = None
    """How long it takes; None for as long as every other."""
    nodes: int | None = None
    """Nodes that join: None for as many as the pool counts."""
    polls: int | None = None
    """It ends when its operation has been asked about so often, rather than after a time."""
    retry_after: int | None = None
    """Seconds that the answers about the operation ask to wait."""
    forgotten: bool = False
    """Its operation is not to be found."""


@dataclass(slots=True)
class _Standing:
    plan: Plan
    pool: str
    count: int
    share: float


class ConnectionDropped(Exception):
    """The request is to get no answer."""


class Faults:
    """The first fault that matches applies to a request; plans apply to the creations of a pool by name, in order."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._plans: list[_Standing] = []

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def plan(self, plan: Plan, *, pool: str = "", count: int = 1, share: float = 1.0) -> None:
        """The next ``count`` creations of ``pool``, or of any, go as planned; -1 for all, ``share`` of them by chance."""
        self._plans.append(_Standing(plan, pool, count, share))

    def clear(self) -> None:
        self._faults.clear()
        self._plans.clear()

    def next_plan(self, pool: str) -> Plan:
        for standing in self._plans:
            if standing.count and standing.pool in ("", pool) and self._random.random() < standing.share:
                standing.count -= standing.count > 0
                return standing.plan
        return Plan()

    async def before(self, method: str, pool: str) -> Fault | None:
        """Apply what precedes the request. Raises ArmError or ConnectionDropped; returns the fault that applies."""
        fault = next(
            (fault for fault in self._faults if fault.matches(method, pool) and self._random.random() < fault.share),
            None,
        )
        if fault is None:
            return None
        fault.hits += 1
        fault.count -= fault.count > 0
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop == "before":
            raise ConnectionDropped
        if fault.error is not None:
            raise fault.error
        return fault
