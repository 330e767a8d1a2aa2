"""Starting and stopping: in which order, within what time, and what is left of it."""

from __future__ import annotations

import ast
import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kaito.runtime
from kaito.runtime import (
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    Client,
    ConfigError,
    Controller,
    ElectionConfig,
    Manager,
    ManagerOptions,
    Manifest,
    ObjectReference,
    Request,
    RestConfig,
    SystemClock,
)
from kaito.runtime.transport.client import meta_of
from support.controlplane import ControlPlane
from support.waiting import eventually

OFFLINE = RestConfig(server="http://127.0.0.1:9")
"""Nothing is declared, so nothing is ever asked of it."""


def quiet(grace: float = 5.0, election: ElectionConfig | None = None) -> ManagerOptions:
    return ManagerOptions(metrics_address="0", health_address="0", grace_period=grace, election=election)


def election(namespace: str, lease_duration: float = 60.0) -> ElectionConfig:
    return ElectionConfig(namespace, "lease", "m", lease_duration, renew_deadline=lease_duration / 2, retry_period=0.1)


def config_map(name: str, namespace: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


async def idle() -> None:
    await asyncio.Event().wait()


# Order


async def test_leading_is_told_once_the_leaders_parts_have_begun_and_the_lease_is_kept_until_they_ended(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 69."""
    manager = Manager(control_plane.config, quiet(election=election(namespace)))
    log: list[str] = []

    async def holder() -> str:
        lease = await client.get(LEASES, "lease", namespace)
        return str(lease["spec"]["holderIdentity"])

    async def leaders_part() -> None:
        log.append(f"begins, elected: {manager.elected.is_set()}")
        try:
            await idle()
        finally:
            await asyncio.sleep(0.3)  # several retry periods, in which the lease must be renewed
            await manager.client.create(CONFIG_MAPS, config_map("last-words", namespace))
            log.append(f"ends, lease held by {await holder()}")

    async def everybodys_part() -> None:
        log.append("everybody's part begins")
        await idle()

    manager.add_runnable("leaders", leaders_part)
    manager.add_runnable("everybody's", everybodys_part, needs_leader=False)
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    await eventually(lambda: len(log) == 2)
    manager.stop()
    await task
    assert log[0] == "everybody's part begins"
    assert log[2] == "ends, lease held by m"
    assert await holder() == ""


async def test_a_follower_that_stops_does_not_begin_what_only_leaders_do(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 69."""
    held: Manifest = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lease", "namespace": namespace},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 3600},
    }
    await client.create(LEASES, held)
    manager = Manager(control_plane.config, quiet(election=election(namespace)))
    began: list[str] = []

    async def leaders() -> None:
        began.append("leaders")

    async def everybody() -> None:
        began.append("everybody")

    manager.add_runnable("leaders", leaders)
    manager.add_runnable("everybody", everybody, needs_leader=False)
    task = asyncio.create_task(manager.run())
    await eventually(lambda: began)
    manager.stop()
    await task
    assert began == ["everybody"]
    assert (await client.get(LEASES, "lease", namespace))["spec"]["holderIdentity"] == "other"


async def test_what_is_recorded_while_stopping_is_written(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 69."""
    owner = meta_of(CONFIG_MAPS, await client.create(CONFIG_MAPS, config_map("a", namespace)))
    manager = Manager(control_plane.config, quiet())
    recorder = manager.recorder("test")
    began, proceed = asyncio.Event(), asyncio.Event()

    class Reconciler:
        async def reconcile(self, request: Request) -> None:
            if request.key.name == "a":
                began.set()
                await proceed.wait()
                recorder.event(ObjectReference.of(CONFIG_MAPS, owner), "Normal", "Stopped", "in order")

    manager.add(Controller("test", Reconciler(), CONFIG_MAPS))
    task = asyncio.create_task(manager.run())
    await began.wait()
    manager.stop()
    proceed.set()
    await task
    assert [event["reason"] for event in await client.list(EVENTS, namespace)] == ["Stopped"]


async def test_a_wall_clock_that_jumps_disturbs_neither_lease_nor_writes(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 101."""

    class Clock:
        asked = 0

        def now(self) -> datetime:
            self.asked += 1
            return datetime(1971 + self.asked * 37 % 120, 1, 1, 0, 0, 0, self.asked % 1000, tzinfo=UTC)

        def monotonic(self) -> float:
            return SystemClock().monotonic()

    manager = Manager(control_plane.config, quiet(election=election(namespace, 4.0)), clock=Clock())
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    first = int((await client.get(LEASES, "lease", namespace))["metadata"]["resourceVersion"])

    async def renewed_for_longer_than_the_lease() -> bool:
        lease = await client.get(LEASES, "lease", namespace)
        return bool(int(lease["metadata"]["resourceVersion"]) >= first + 50)

    await eventually(lambda: renewed_for_longer_than_the_lease())
    await manager.client.create(CONFIG_MAPS, config_map("a", namespace))
    manager.stop()
    await task


# Errors


async def test_the_part_that_failed_is_named_and_several_errors_are_all_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pitfall 103."""
    manager = Manager(OFFLINE, quiet())
    proceed = asyncio.Event()

    async def first() -> None:
        await proceed.wait()
        raise OSError("the disk is full")

    async def second() -> None:
        try:
            await idle()
        finally:
            raise ValueError("and the printer is on fire")

    async def third() -> None:
        await idle()

    manager.add_runnable("storage", first, supervised=False)
    manager.add_runnable("printing", second, supervised=False)
    manager.add_runnable("fine", third)
    task = asyncio.create_task(manager.run())
    await manager.elected.wait()
    proceed.set()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert {type(error) for error in caught.value.exceptions} == {OSError, ValueError}, "a cancellation is no error"
    captured = capsys.readouterr()
    assert "storage" in captured.out + captured.err


async def test_a_part_that_ends_by_a_cancellation_of_its_own_is_an_error() -> None:
    manager = Manager(OFFLINE, quiet())

    async def lost() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    manager.add_runnable("lost", lost, supervised=False)
    with pytest.raises(RuntimeError, match="something that was cancelled"):
        await manager.run()


async def test_a_part_may_return_early() -> None:
    manager = Manager(OFFLINE, quiet())
    done = asyncio.Event()

    async def brief() -> None:
        done.set()

    manager.add_runnable("brief", brief)
    task = asyncio.create_task(manager.run())
    await done.wait()
    await manager.elected.wait()
    assert not task.done()
    manager.stop()
    await task


async def test_an_address_in_use_ends_the_manager_and_leaves_nothing(control_plane: ControlPlane) -> None:
    """Pitfalls 69 and 74: what fails while starting is told, and what had started is stopped."""
    blocker = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = blocker.sockets[0].getsockname()[1]
    options = ManagerOptions(metrics_address=f"127.0.0.1:{port}", health_address="127.0.0.1:0")
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        await Manager(control_plane.config, options).run()
    blocker.close()
    await blocker.wait_closed()
    with pytest.raises(ConfigError, match="is not an address"):
        await Manager(control_plane.config, ManagerOptions(metrics_address="8080")).run()


# Any parts at all


@dataclass(frozen=True)
class Part:
    """One runnable: how long until it fails or returns, and how long it takes to end once it is told to."""

    lasts: float
    fails: bool
    lingers: float
    needs_leader: bool
    stubborn: bool = False
    """It does not listen to the first request to end."""


_parts = st.builds(
    Part,
    lasts=st.floats(0.0, 100.0),
    fails=st.booleans(),
    lingers=st.floats(0.0, 20.0),
    needs_leader=st.booleans(),
    stubborn=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(_parts, max_size=5), stop_at=st.floats(0.0, 120.0), grace=st.floats(0.0, 30.0))
def test_whatever_its_parts_do_a_manager_stops_within_its_grace_period_and_leaves_no_task(
    parts: list[Part], stop_at: float, grace: float
) -> None:
    """Pitfalls 72 and 74; in virtual time."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        manager = Manager(OFFLINE, quiet(grace))
        active = 0

        async def run(part: Part) -> None:
            nonlocal active
            active += 1
            ends = loop.time() + part.lasts
            try:
                try:
                    await asyncio.sleep(part.lasts)
                except asyncio.CancelledError:
                    if not part.stubborn:
                        await asyncio.sleep(part.lingers)
                        raise
                    await asyncio.sleep(max(0.0, ends - loop.time()) + part.lingers)
                if part.fails:
                    raise ValueError("failed")
            finally:
                active -= 1

        for number, part in enumerate(parts):
            name = f"part {number}"
            leads = part.needs_leader
            manager.add_runnable(name, lambda part=part: run(part), needs_leader=leads, supervised=False)
        task = asyncio.create_task(manager.run())
        await asyncio.wait([task], timeout=stop_at)
        if not task.done():
            manager.stop()
        asked = loop.time()
        await asyncio.wait([task])
        assert loop.time() - asked <= grace + 0.5
        assert active == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        error = task.exception()
        leaves = error.exceptions if isinstance(error, BaseExceptionGroup) else [error] if error else []
        assert all(isinstance(leaf, ValueError) for leaf in leaves)

    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(noop_cycles=3)) as runner:
        runner.run(scenario())


def test_nothing_waits_with_what_cancels_wrongly() -> None:
    """Pitfall 93: ``asyncio.wait_for`` may swallow a cancellation that arrives with its result."""
    root = Path(next(iter(kaito.runtime.__path__)))
    forbidden = {"wait_for", "ensure_future", "get_event_loop"}
    found: list[Any] = []
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in forbidden:
                found.append((file.name, node.lineno, node.attr))
            # A task whose handle nobody keeps may be collected before it has run.
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = node.value.func
                if isinstance(called, ast.Attribute) and called.attr == "create_task":
                    found.append((file.name, node.lineno, "create_task"))
    assert found == []
