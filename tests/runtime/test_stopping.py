"""The parts of a manager: in which order they begin and end, what becomes of those that fail, and of those that do not end."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import looptime
import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    LEASES,
    Client,
    Controller,
    ElectionConfig,
    FencedError,
    LeadershipLost,
    Manager,
    ManagerOptions,
    Order,
    Request,
    RestConfig,
    StopTimeout,
    Timer,
)
from support.controlplane import ControlPlane
from support.front import Front
from support.waiting import eventually

OFFLINE = RestConfig(server="http://127.0.0.1:9")


def quiet(grace: float = 5.0, election: ElectionConfig | None = None) -> ManagerOptions:
    return ManagerOptions(metrics_address="0", health_address="0", grace_period=grace, election=election)


def election(namespace: str) -> ElectionConfig:
    return ElectionConfig(namespace, "lease", "me", lease_duration=3.0, renew_deadline=2.0, retry_period=0.3)


class Reconciler:
    def __init__(self, reconcile: Callable[[], object]) -> None:
        self._reconcile = reconcile

    async def reconcile(self, request: Request) -> None:
        outcome = self._reconcile()
        if asyncio.iscoroutine(outcome):
            await outcome


def controller(reconcile: Callable[[], object], name: str = "c", *, needs_leader: bool = True) -> Controller:
    return Controller(name, Reconciler(reconcile), sources=(Timer(1e6),), needs_leader=needs_leader)


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(manager.run(), name="manager under test")
    try:
        await eventually(lambda: manager.elected.is_set() or task.done())
        yield task
    finally:
        manager.stop()
        if not task.done():
            await task


class Deaf:
    """Work that does not listen to a cancellation, until it is let go."""

    def __init__(self) -> None:
        self.began, self.let_go = asyncio.Event(), asyncio.Event()

    async def work(self) -> None:
        self.began.set()
        while not self.let_go.is_set():
            with suppress(asyncio.CancelledError):
                await self.let_go.wait()


async def steal(client: Client, namespace: str) -> None:
    """Somebody else takes the lease, whatever the rules say."""
    spec = {"holderIdentity": "thief", "leaseDurationSeconds": 3600}
    await client.patch(LEASES, "lease", {"spec": spec}, namespace=namespace)


# Order


async def test_what_controllers_share_is_open_from_before_their_start_until_after_their_last_reconcile() -> None:
    manager = Manager(OFFLINE, quiet())
    log: list[str] = []
    began = asyncio.Event()

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        await asyncio.sleep(0.05)
        log.append("opened")
        try:
            yield
        finally:
            log.append("closed")

    async def reconcile() -> None:
        log.append("reconcile begins")
        began.set()
        await asyncio.sleep(0.1)
        log.append("reconcile ends")

    manager.add(controller(reconcile))
    manager.add_context("cloud", connection())
    async with running(manager):
        await began.wait()
    assert log == ["opened", "reconcile begins", "reconcile ends", "closed"]


async def test_runnables_begin_and_end_in_order_around_the_controllers_of_all_groups() -> None:
    manager = Manager(OFFLINE, quiet())
    log: list[str] = []
    began = asyncio.Event()

    def part(name: str) -> Callable[[], object]:
        async def run() -> None:
            log.append(f"{name} begins")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                log.append(f"{name} ends")

        return run

    async def reconcile() -> None:
        log.append("controller begins")
        began.set()
        await asyncio.sleep(0.05)
        log.append("controller ends")

    manager.add_runnable("after", part("after"), order=Order.AFTER)
    manager.add_runnable("before", part("before"), order=Order.BEFORE)
    manager.add_runnable("before all", part("before all"), order=Order.BEFORE, needs_leader=False)
    manager.add(controller(reconcile))
    async with running(manager):
        await began.wait()
        await eventually(lambda: "after begins" in log)
    assert log[:2] == ["before all begins", "before begins"]
    assert log[-4:] == ["after ends", "controller ends", "before ends", "before all ends"]


async def test_a_context_that_cannot_be_entered_ends_the_manager() -> None:
    manager = Manager(OFFLINE, quiet())
    reconciled: list[int] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        raise OSError("no such host")
        yield

    manager.add(controller(lambda: reconciled.append(1)))
    manager.add_context("cloud", connection())
    with pytest.raises(OSError, match="no such host"):
        await manager.run()
    assert not reconciled


# Failing


def test_a_runnable_that_fails_is_started_again_counted_and_shown() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        manager = Manager(OFFLINE, quiet())
        starts: list[float] = []
        well = asyncio.Event()

        async def collect() -> None:
            starts.append(loop.time())
            if len(starts) == 3:
                future = loop.create_future()
                future.cancel()
                await future
            if len(starts) <= 4:
                raise KeyError("a field of a new API version")
            well.set()
            await asyncio.Event().wait()

        manager.add_runnable("garbage collection", collect)
        task = asyncio.create_task(manager.run())
        await well.wait()
        assert not task.done()
        waits = [after - before for before, after in itertools.pairwise(starts)]
        for number, wait in enumerate(waits):
            assert 0.8 * 2**number <= wait <= 1.5 * 0.8 * 2**number + 0.1
        labels = {"runnable": "garbage collection"}
        assert manager.metrics.get_sample_value("kaito_runtime_runnable_restarts_total", labels) == 4
        with pytest.raises(Exception, match="garbage collection failed 4 times"):
            manager._supervisor.check()
        await asyncio.sleep(121.0)
        manager._supervisor.check()
        manager.stop()
        await task

    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(noop_cycles=3)) as runner:
        runner.run(scenario())


async def test_a_runnable_that_keeps_failing_is_not_ready() -> None:
    manager = Manager(OFFLINE, ManagerOptions(metrics_address="0", health_address="127.0.0.1:0"))

    async def fail() -> None:
        raise ValueError("broken")

    manager.add_runnable("broken", fail, needs_leader=False)
    async with running(manager), aiohttp.ClientSession() as session:

        async def shown() -> bool:
            async with session.get(f"http://127.0.0.1:{manager.health_port}/readyz/runnables") as answer:
                return answer.status == 500

        await eventually(shown)


# Not ending


async def test_a_part_that_does_not_end_is_named_and_the_process_ended(
    control_plane: ControlPlane, client: Client, namespace: str, ended: list[int]
) -> None:
    """Its lease is neither renewed nor given back while it may still act, and its fence is closed."""
    manager = Manager(control_plane.config, quiet(0.2, election(namespace)))
    deaf = Deaf()
    manager.add(controller(deaf.work, "deaf"))
    task = asyncio.create_task(manager.run())
    await deaf.began.wait()
    manager.stop()
    with pytest.raises(StopTimeout, match="controller deaf"):
        await task
    with pytest.raises(FencedError):
        manager.fence.check()
    before = await client.get(LEASES, "lease", namespace)
    assert before["spec"]["holderIdentity"] == "me"
    await eventually(lambda: ended == [1])
    assert (await client.get(LEASES, "lease", namespace))["spec"]["renewTime"] == before["spec"]["renewTime"]
    deaf.let_go.set()
    await eventually(
        lambda: not any(task.get_name().startswith(("controller", "deaf")) for task in asyncio.all_tasks())
    )


async def test_a_stuck_event_loop_does_not_keep_a_stopping_process(ended: list[int]) -> None:
    manager = Manager(OFFLINE, quiet(0.0))
    stuck = threading.Event()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # The event loop's own thread: nothing else runs until the process would have ended.
            while not ended and not stuck.wait(0.05):
                pass

    manager.add_runnable("stuck", run)
    async with running(manager):
        pass
    assert ended == [1]


async def test_a_lost_lease_shows_in_the_probes_and_the_process_ends_although_a_part_does_not(
    control_plane: ControlPlane, front: Front, namespace: str, ended: list[int]
) -> None:
    options = ManagerOptions(
        metrics_address="0", health_address="127.0.0.1:0", grace_period=30.0, election=election(namespace)
    )
    manager = Manager(control_plane.config, options)
    deaf = Deaf()
    manager.add(controller(deaf.work, "deaf"))
    task = asyncio.create_task(manager.run())
    await deaf.began.wait()
    await steal(Client(manager.rest), namespace)
    async with aiohttp.ClientSession() as session:

        async def unhealthy() -> bool:
            async with session.get(f"http://127.0.0.1:{manager.health_port}/healthz") as answer:
                return answer.status == 500

        await eventually(unhealthy)
    with pytest.raises(FencedError):
        manager.fence.check()
    with pytest.raises(BaseExceptionGroup) as caught:
        await task
    assert {type(error) for error in caught.value.exceptions} == {LeadershipLost, StopTimeout}
    await eventually(lambda: ended == [1])
    deaf.let_go.set()
    await eventually(
        lambda: not any(task.get_name().startswith(("controller", "deaf")) for task in asyncio.all_tasks())
    )


async def test_a_lease_that_is_lost_while_stopping_ends_the_grace_period(
    control_plane: ControlPlane, namespace: str, ended: list[int]
) -> None:
    manager = Manager(control_plane.config, quiet(60.0, election(namespace)))
    began, proceed = asyncio.Event(), asyncio.Event()

    async def reconcile() -> None:
        began.set()
        await proceed.wait()

    manager.add(controller(reconcile))
    task = asyncio.create_task(manager.run())
    await began.wait()
    manager.stop()
    await steal(Client(manager.rest), namespace)
    await eventually(lambda: ended)
    assert not task.done()
    proceed.set()
    with pytest.raises(LeadershipLost):
        await task


async def test_a_manager_that_stops_in_time_ends_nobody(ended: list[int]) -> None:
    manager = Manager(OFFLINE, quiet(0.0))
    async with running(manager):
        pass
    assert ended == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watchdog")]


# Who may write


async def test_the_fence_is_for_everybody_who_writes_anywhere(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Also for a manager without an election, until it has stopped."""
    follower = Manager(control_plane.config, quiet(election=election(namespace)))
    with pytest.raises(FencedError):
        follower.fence.check()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}}
    with pytest.raises(FencedError):
        await follower.client.create(CONFIG_MAPS, body)
    assert await follower.unfenced_client.create(CONFIG_MAPS, body)
    await follower.rest.aclose()
    alone = Manager(control_plane.config, quiet())
    alone.fence.check()
    async with running(alone):
        alone.fence.check()
    with pytest.raises(FencedError):
        alone.fence.check()
