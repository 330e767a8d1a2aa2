"""One lease, the rules by which an API server keeps it, and a clock of virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from kaito.runtime import AlreadyExists, Conflict, NotFound


class LoopClock:
    """Durations as the (virtual) event loop counts them, from another zero and at a slightly other pace; a wall clock that
    is set back and forth."""

    def __init__(self, *, offset: float = 1000.0, rate: float = 1.0, walls: Sequence[float] = (0.0,)) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset, self._rate = offset, rate
        self._walls = walls
        self._asked = 0

    def monotonic(self) -> float:
        return self._offset + self._loop.time() * self._rate

    def now(self) -> datetime:
        self._asked += 1
        jump = self._walls[self._asked % len(self._walls)]
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._loop.time() + jump)


@dataclass
class LeaseServer:
    """One lease and the rules of an API server: PUT needs the current version, POST that there is none."""

    lease: dict[str, Any] | None = None
    version: int = 0
    requests: list[tuple[str, float]] = field(default_factory=list)

    def handle(self, method: str, body: bytes | None) -> bytes:
        self.requests.append((method, asyncio.get_running_loop().time()))
        if method == "GET":
            if self.lease is None:
                raise NotFound("no lease")
            return json.dumps(self.lease).encode()
        wanted = json.loads(body or b"")
        if method == "POST":
            if self.lease is not None:
                raise AlreadyExists("there is one")
        elif self.lease is None:
            raise NotFound("no lease")
        elif wanted["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("outdated")
        self.write(wanted)
        return json.dumps(self.lease).encode()

    def write(self, lease: dict[str, Any]) -> None:
        self.version += 1
        lease["metadata"]["resourceVersion"] = str(self.version)
        self.lease = lease

    def hold(self, holder: str, seconds: int = 15, **spec: Any) -> None:
        names = {"holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": 0, **spec}
        self.write({"metadata": {"name": "lease", "namespace": "n"}, "spec": names})

    @property
    def holder(self) -> str:
        return (self.lease or {}).get("spec", {}).get("holderIdentity") or ""

    def count(self, method: str) -> int:
        return sum(made == method for made, _ in self.requests)
