"""Any history of a leader: its lease renewed, lost, stolen or cut off, its requests held up, its parts deaf, and its stop.

At no moment may it write after its lease may have passed to another, and it always ends in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import looptime
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kaito.runtime import (
    CONFIG_MAPS,
    ElectionConfig,
    FencedError,
    LeadershipLost,
    Manager,
    ManagerOptions,
    RestConfig,
    StopTimeout,
    TransportError,
)
from kaito.runtime.manager.manager import STOP_MARGIN
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.rest import Answer
from support.lease import LeaseServer, LoopClock

LEASE = 15.0
CONFIG_MAP = b'{"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "n"}}'


class Network:
    """Between one manager and its server; asks ``guard`` where the real one does: before, and at the first byte."""

    def __init__(self) -> None:
        self.server = LeaseServer()
        self.lease_lost = False
        self.held_up = 0.0
        self.granted = float("-inf")
        """When the server last stored that the lease is ours."""
        self.written: list[float] = []
        self.too_late: list[tuple[float, float]] = []

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        pool: Pool = Pool.API,
        timeout: float = 60.0,
        guard: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> Answer:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.01)
        if pool is Pool.LEASE:
            if self.lease_lost:
                await asyncio.sleep(timeout)
                raise TransportError("no answer")
            answer = self.server.handle(method, body)
            if self.server.holder == "me":
                self.granted = loop.time()
            return Answer(200, cast(Any, None), answer)
        guard()
        await asyncio.sleep(self.held_up)
        guard()
        self.written.append(loop.time())
        if self.server.holder not in ("me", "") or loop.time() > self.granted + LEASE:
            self.too_late.append((loop.time(), self.granted))
        return Answer(200, cast(Any, None), CONFIG_MAP)


class FencedLeader(RuleBasedStateMachine):
    @initialize(grace=st.floats(0.0, 40.0), deaf=st.booleans(), pause=st.floats(0.05, 2.0))
    def start(self, grace: float, deaf: bool, pause: float) -> None:
        self.runner = asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(noop_cycles=3))
        self.loop = self.runner.get_loop()
        self.grace, self.pause = grace, pause
        self.network = Network()
        self.stopped_at: float | None = None
        self.let_go = asyncio.Event()
        self.writes: set[asyncio.Task[None]] = set()
        self.deaf = deaf
        self.runner.run(self._start())

    async def _start(self) -> None:
        options = ManagerOptions(
            metrics_address="0",
            health_address="0",
            grace_period=self.grace,
            election=ElectionConfig("n", "lease", "me", LEASE, 10.0, 2.0),
        )
        self.manager = Manager(RestConfig(server="http://127.0.0.1:9"), options, clock=LoopClock())
        self.manager.rest.send = self.network.send  # type: ignore[method-assign, assignment]
        self.manager.add_runnable("writer", self._write, supervised=False)
        self.manager.add_runnable("deaf" if self.deaf else "idle", self._idle)
        self.task = asyncio.create_task(self.manager.run())

    async def _write(self) -> None:
        """Each write is a task of its own, which nobody cancels."""
        while True:
            write = asyncio.create_task(self._write_once())
            self.writes.add(write)
            write.add_done_callback(self.writes.discard)
            await asyncio.sleep(self.pause)

    async def _write_once(self) -> None:
        with suppress(FencedError):
            await self.manager.client.patch(CONFIG_MAPS, "a", {}, namespace="n")

    async def _idle(self) -> None:
        """A deaf part goes on writing when it is told to end."""
        while not self.let_go.is_set():
            try:
                await self._write() if self.deaf else await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.deaf:
                    raise

    @rule(seconds=st.floats(0.05, 25.0))
    def time_passes(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule(lost=st.booleans())
    def lease_requests(self, lost: bool) -> None:
        self.network.lease_lost = lost

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 14.0, 30.0]))
    def writes_are_held_up(self, seconds: float) -> None:
        self.network.held_up = seconds

    @precondition(lambda self: self.network.lease_lost and self.network.server.holder == "me")
    @rule()
    def another_takes_a_lease_that_ran_out(self) -> None:
        """By the rules: once it has not changed for its duration."""
        wait = self.network.granted + LEASE - self.loop.time()
        if wait > 0:
            self.runner.run(asyncio.sleep(wait))
        # What was on its way may have renewed it meanwhile.
        if self.loop.time() >= self.network.granted + LEASE:
            self.network.server.hold("another")

    @precondition(lambda self: self.stopped_at is None)
    @rule()
    def stop(self) -> None:
        self.stopped_at = self.loop.time()
        self.manager.stop()

    @invariant()
    def nothing_is_written_once_the_lease_may_be_anothers(self) -> None:
        assert not self.network.too_late

    @invariant()
    def it_ends_in_time(self) -> None:
        now = self.loop.time()
        if self.stopped_at is not None and now > self.stopped_at + self.grace + STOP_MARGIN:
            assert self.task.done()
        if self.network.granted > float("-inf") and now > self.network.granted + LEASE + STOP_MARGIN:
            assert self.task.done() or self.stopped_at is not None

    @invariant()
    def what_has_ended_writes_nothing(self) -> None:
        if self.task.done():
            before = len(self.network.written)
            self.runner.run(asyncio.sleep(40.0))
            assert len(self.network.written) == before

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.runner.run(self._end())
        self.runner.close()

    async def _end(self) -> None:
        self.manager.stop()
        await asyncio.wait([self.task], timeout=self.grace + 2.0)
        assert self.task.done()
        error = self.task.exception()
        leaves = error.exceptions if isinstance(error, BaseExceptionGroup) else [error] if error else []
        assert all(isinstance(leaf, LeadershipLost | StopTimeout) for leaf in leaves), leaves
        self.let_go.set()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


FencedLeader.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestFencedLeader = FencedLeader.TestCase
