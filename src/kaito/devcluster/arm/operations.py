"""What goes on in the background: pools come and go, the cluster stops and starts, and operations tell how far that is."""

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
from kaito.devcluster.arm.managed import ManagedCluster
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
    """create, update, delete, stop or start."""
    subject: str
    """Name of the pool, or of the cluster."""
    plan: Plan = field(default_factory=Plan)
    pool: Pool | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "InProgress"
    started: str = field(default_factory=_now)
    ended: str = ""
    error: ArmError | None = None
    _asked: int = 0
    _due: asyncio.Event = field(default_factory=asyncio.Event)

    def resource(self) -> dict[str, Any]:
        body: dict[str, Any] = {"name": self.id, "status": self.status, "startTime": self.started}
        if self.ended:
            body["endTime"] = self.ended
        if self.error is not None:
            body["error"] = self.error.detail()
        return body

    def headers(self) -> dict[str, str]:
        pause = self.plan.retry_after
        return {} if pause is None or self.ended else {"Retry-After": str(pause)}

    def asked(self) -> None:
        """Someone wants to know how far it is."""
        self._asked += 1
        if self.plan.polls is not None and self._asked >= self.plan.polls:
            self._due.set()

    async def due(self, seconds: float) -> None:
        """Wait until it ends: after ``seconds``, or as planned."""
        if self.plan.stuck:
            await asyncio.Event().wait()
        if self.plan.polls is None:
            await asyncio.sleep(seconds if self.plan.seconds is None else self.plan.seconds)
        else:
            await self._due.wait()

    def end(self, error: ArmError | None) -> None:
        self.status, self.error, self.ended = "Failed" if error else "Succeeded", error, _now()


class Operations:
    """The pools, the cluster, and the tasks that change them.

    A hook that fails makes the operation fail, with what it said.
    """

    def __init__(
        self,
        cluster: ManagedCluster,
        faults: Faults,
        *,
        create_seconds: float,
        delete_seconds: float,
        on_ready: PoolHook,
        on_gone: PoolHook,
    ) -> None:
        self.cluster = cluster
        self.pools: dict[str, Pool] = {}
        self._faults = faults
        self._create_seconds = create_seconds
        self._delete_seconds = delete_seconds
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._operations: OrderedDict[str, Operation] = OrderedDict()
        self._tasks = TaskScope(self._failed)

    def find(self, id_: str) -> Operation | None:
        operation = self._operations.get(id_)
        return None if operation is None or operation.plan.forgotten else operation

    def create(self, pool: Pool) -> Operation:
        """Pool ``pool`` is Creating from now on."""
        self.pools[pool.name] = pool
        operation = Operation("create", pool.name, self._faults.next_plan(pool.name), pool)
        return self._start(operation, self._create(operation, pool))

    def update(self, pool: Pool, properties: dict[str, Any]) -> Operation:
        pool.properties = properties
        pool.become("Updating")
        operation = Operation("update", pool.name, pool=pool)
        return self._start(operation, self._update(operation, pool))

    def delete(self, pool: Pool) -> Operation:
        pool.become("Deleting")
        operation = Operation("delete", pool.name, pool=pool)
        return self._start(operation, self._delete(operation, pool))

    def set_power(self, power: str) -> Operation:
        """Stop the cluster (``Stopped``) or start it (``Running``)."""
        cluster = self.cluster
        kind, cluster.provisioning = ("start", "Starting") if power == "Running" else ("stop", "Stopping")
        operation = Operation(kind, cluster.site.cluster)
        return self._start(operation, self._set_power(operation, power))

    async def aclose(self) -> None:
        """Leave everything as it is."""
        await self._tasks.aclose()

    def _start(self, operation: Operation, work: Awaitable[ArmError | None]) -> Operation:
        self._operations[operation.id] = operation
        while len(self._operations) > MAX_OPERATIONS:
            self._operations.popitem(last=False)
        self._tasks.start(f"arm {operation.kind} {operation.subject}", self._run(operation, work))
        return operation

    async def _run(self, operation: Operation, work: Awaitable[ArmError | None]) -> None:
        try:
            error = await work
        except Exception as failure:
            _log.exception("the %s of %s failed", operation.kind, operation.subject)
            error = ArmError(500, "InternalServerError", f"{type(failure).__name__}: {failure}")
        if error is not None and operation.pool is not None:
            operation.pool.become("Failed", error)
        operation.end(error)

    async def _create(self, operation: Operation, pool: Pool) -> ArmError | None:
        plan = operation.plan
        await operation.due(self._create_seconds)
        if plan.error is not None:
            return plan.error
        pool.instances = tuple(range(pool.count if plan.nodes is None else plan.nodes))
        # The machines are in the cluster before Azure says that the pool is done.
        await self._on_ready(pool)
        pool.become("Succeeded")
        return None

    async def _update(self, operation: Operation, pool: Pool) -> ArmError | None:
        await operation.due(self._create_seconds)
        pool.become("Succeeded")
        return None

    async def _delete(self, operation: Operation, pool: Pool) -> ArmError | None:
        await operation.due(self._delete_seconds)
        await self._on_gone(pool)
        self.pools.pop(pool.name, None)
        return None

    async def _set_power(self, operation: Operation, power: str) -> ArmError | None:
        await operation.due(self._delete_seconds)
        for pool in self.pools.values():
            pool.properties["powerState"] = {"code": power}
            # Whoever has seen the pool before has seen another version of it.
            pool.become(pool.state, pool.error)
        self.cluster.provisioning, self.cluster.power = "Succeeded", power
        return None

    def _failed(self, name: str, error: BaseException) -> None:
        _log.error("%s ended with %r", name, error)
