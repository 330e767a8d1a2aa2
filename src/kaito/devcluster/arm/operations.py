"""What goes on in the background: pools come and go, and operations tell how far that is."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kaito.devcluster.arm.errors import ArmError
from kaito.devcluster.arm.faults import Faults, Plan
from kaito.devcluster.arm.pools import Pool
from kaito.runtime import TaskScope

PoolHook = Callable[[Pool], Awaitable[None]]

MAX_OPERATIONS = 1000
"""Operations that are remembered; older ones answer 404, as expired ones do."""

_log = logging.getLogger("kaito.devcluster.arm")


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(slots=True)
class Operation:
    kind: str
    """create, update or delete."""
    pool: Pool
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "InProgress"
    started: str = field(default_factory=_now)
    ended: str = ""
    error: ArmError | None = None

    def resource(self) -> dict[str, Any]:
        body: dict[str, Any] = {"name": self.id, "status": self.status, "startTime": self.started}
        if self.ended:
            body["endTime"] = self.ended
        if self.error is not None:
            body["error"] = self.error.detail()
        return body

    def end(self, error: ArmError | None) -> None:
        self.status, self.error, self.ended = "Failed" if error else "Succeeded", error, _now()


class Operations:
    """The pools and the tasks that change them.

    A hook that fails makes the operation fail, with what it said.
    """

    def __init__(
        self, faults: Faults, *, create_seconds: float, delete_seconds: float, on_ready: PoolHook, on_gone: PoolHook
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self._faults = faults
        self._create_seconds = create_seconds
        self._delete_seconds = delete_seconds
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._operations: OrderedDict[str, Operation] = OrderedDict()
        self._tasks = TaskScope(self._failed)

    def find(self, id_: str) -> Operation | None:
        return self._operations.get(id_)

    def create(self, pool: Pool) -> Operation:
        """Pool ``pool`` is Creating from now on."""
        self.pools[pool.name] = pool
        return self._start("create", pool, self._create(pool, self._faults.next_plan(pool.name)))

    def update(self, pool: Pool, properties: dict[str, Any]) -> Operation:
        pool.properties = properties
        pool.become("Updating")
        return self._start("update", pool, self._update(pool))

    def delete(self, pool: Pool) -> Operation:
        pool.become("Deleting")
        return self._start("delete", pool, self._delete(pool))

    async def aclose(self) -> None:
        """Leave everything as it is."""
        await self._tasks.aclose()

    def _start(self, kind: str, pool: Pool, work: Awaitable[ArmError | None]) -> Operation:
        operation = Operation(kind, pool)
        self._operations[operation.id] = operation
        while len(self._operations) > MAX_OPERATIONS:
            self._operations.popitem(last=False)
        self._tasks.start(f"arm {kind} {pool.name}", self._run(operation, work))
        return operation

    async def _run(self, operation: Operation, work: Awaitable[ArmError | None]) -> None:
        try:
            error = await work
        except Exception as failure:
            _log.exception("the %s of agent pool %s failed", operation.kind, operation.pool.name)
            error = ArmError(500, "InternalServerError", f"{type(failure).__name__}: {failure}")
        if error is not None:
            operation.pool.become("Failed", error)
        operation.end(error)

    async def _create(self, pool: Pool, plan: Plan) -> ArmError | None:
        await asyncio.sleep(self._create_seconds)
        if plan.stuck:
            await asyncio.Event().wait()
        if plan.error is not None:
            return plan.error
        pool.instances = tuple(range(pool.count if plan.nodes is None else plan.nodes))
        # The machines are in the cluster before Azure says that the pool is done.
        await self._on_ready(pool)
        pool.become("Succeeded")
        return None

    async def _update(self, pool: Pool) -> ArmError | None:
        await asyncio.sleep(self._create_seconds)
        pool.become("Succeeded")
        return None

    async def _delete(self, pool: Pool) -> ArmError | None:
        await asyncio.sleep(self._delete_seconds)
        await self._on_gone(pool)
        self.pools.pop(pool.name, None)
        return None

    def _failed(self, name: str, error: BaseException) -> None:
        _log.error("%s ended with %r", name, error)
