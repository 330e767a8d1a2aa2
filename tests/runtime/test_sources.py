"""Reasons to reconcile other than events of a resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from kaito.runtime import (
    CONFIG_MAPS,
    LOW_PRIORITY,
    SECRETS,
    SINGLETON,
    Channel,
    ConfigError,
    Controller,
    Key,
    Manager,
    ManagerOptions,
    Poll,
    Request,
    Result,
    Source,
    Timer,
    Watch,
)
from kaito.runtime.control.sources import changed
from support.controlplane import ControlPlane
from support.waiting import eventually

QUIET = ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0)


def named(name: str) -> tuple[Key]:
    return (Key("n", name),)


class Sink:
    def __init__(self) -> None:
        self.keys: list[tuple[str, int]] = []

    def __call__(self, key: Key, *, priority: int = 0) -> None:
        self.keys.append((key.name, priority))


class Recording:
    def __init__(self) -> None:
        self.keys: list[Key] = []

    async def reconcile(self, request: Request) -> Result | None:
        self.keys.append(request.key)
        return None


@asynccontextmanager
async def fed(source: Source) -> AsyncIterator[Sink]:
    sink = Sink()
    task = asyncio.create_task(source.run(sink))
    await asyncio.sleep(0)
    yield sink
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[None]:
    task = asyncio.create_task(manager.run())
    try:
        await eventually(manager.elected.is_set)
        yield
    finally:
        manager.stop()
        await task


async def test_a_channel_keeps_what_is_sent_before_it_runs() -> None:
    """Pitfall 57."""
    channel = Channel(named)
    channel.send("a", priority=-1)
    channel.send("b")
    channel.send("a", priority=3)
    async with fed(channel) as sink:
        assert sink.keys == [("a", 3), ("b", 0)]
        channel.send("c", priority=7)
        assert sink.keys[2:] == [("c", 7)]
    channel.send("d")
    async with fed(channel) as sink:
        assert sink.keys == [("d", 0)]


async def test_a_closed_channel_ends_its_run_and_takes_no_more() -> None:
    """Pitfall 57."""
    channel = Channel(named)
    channel.send("a")
    sink = Sink()
    task = asyncio.create_task(channel.run(sink))
    channel.close()
    channel.close()
    async with asyncio.timeout(5):
        await task
    assert sink.keys == [("a", 0)]
    with pytest.raises(RuntimeError, match="closed"):
        channel.send("b")


async def test_a_channel_feeds_one_controller() -> None:
    channel = Channel(named)
    async with fed(channel):
        with pytest.raises(ConfigError, match="one controller"):
            await channel.run(Sink())


async def test_what_the_mapper_of_a_channel_raises_is_the_senders() -> None:
    def broken(event: str) -> Iterable[Key]:
        raise LookupError(event)

    with pytest.raises(LookupError):
        Channel(broken).send("a")


class Cloud:
    def __init__(self, *items: tuple[str, str]) -> None:
        self.items = list(items)
        self.lists = 0
        self.failing: BaseException | None = None

    async def list(self) -> list[tuple[str, str]]:
        self.lists += 1
        if self.failing is not None:
            raise self.failing
        return list(self.items)

    async def listed(self, times: int = 2) -> None:
        """The items as they are now have been seen."""
        target = self.lists + times
        await eventually(lambda: self.lists >= target)


def poll(cloud: Cloud) -> Poll[tuple[str, str]]:
    return Poll(0.002, cloud.list, lambda item: named(item[0]), name="cloud")


async def test_a_poll_names_what_came_went_or_differs() -> None:
    cloud = Cloud(("a", "up"), ("b", "up"), ("b", "down"))
    async with fed(poll(cloud)) as sink:
        await cloud.listed()
        assert sink.keys == [("a", LOW_PRIORITY), ("b", LOW_PRIORITY)]
        sink.keys.clear()
        cloud.items = [("b", "down"), ("b", "up"), ("a", "up")]
        await cloud.listed()
        assert not sink.keys
        cloud.items = [("b", "down"), ("b", "up"), ("c", "up")]
        await cloud.listed()
        assert sorted(sink.keys) == [("a", 0), ("c", 0)]


@pytest.mark.parametrize("error", [OSError("the cloud is away"), asyncio.CancelledError("within its client")], ids=repr)
async def test_a_poll_that_fails_knows_what_it_knew(error: BaseException) -> None:
    cloud = Cloud(("a", "up"), ("b", "up"))
    async with fed(poll(cloud)) as sink:
        await cloud.listed()
        sink.keys.clear()
        cloud.failing = error
        await cloud.listed()
        assert not sink.keys
        cloud.failing = None
        cloud.items = [("a", "down"), ("b", "up")]
        await cloud.listed()
        assert sink.keys == [("a", 0)]


def test_equal_items_count() -> None:
    key = Key("", "k")
    assert changed({key: [1, 1]}, {key: [1]}) == [key]
    assert changed({key: [1, 2]}, {key: [2, 1]}) == []
    assert changed({}, {key: [1]}) == [key]
    assert changed({key: [1]}, {}) == [key]


async def test_a_timer_comes_at_once_and_again() -> None:
    async with fed(Timer(0.002, Key("", "t"))) as sink:
        assert sink.keys == [("t", 0)]
        await eventually(lambda: len(sink.keys) >= 3)


@pytest.mark.parametrize("every", [0, -1])
def test_a_period_is_positive(every: float) -> None:
    for make in (Timer, lambda period: Poll(period, Cloud().list, lambda item: named(item[0]))):
        with pytest.raises(ConfigError, match="more than 0"):
            make(every)


async def test_sources_feed_a_controller_without_a_resource(control_plane: ControlPlane) -> None:
    channel: Channel[str] = Channel(named)
    channel.send("early")
    cloud = Cloud(("polled", "up"))
    singleton, fed_by_program = Recording(), Recording()
    manager = Manager(control_plane.config, QUIET)
    manager.add(Controller("singleton", singleton, sources=[Timer(0.01)]))
    manager.add(Controller("program", fed_by_program, sources=[channel, poll(cloud)]))
    async with running(manager):
        await eventually(lambda: len(singleton.keys) >= 2)
        assert set(singleton.keys) == {SINGLETON}
        await eventually(lambda: {Key("n", "early"), Key("n", "polled")} <= set(fed_by_program.keys))
        channel.send("late")
        await eventually(lambda: Key("n", "late") in fed_by_program.keys)
        channel.close()
    assert len(fed_by_program.keys) == 3


async def test_sources_wait_for_the_caches(control_plane: ControlPlane) -> None:
    manager = Manager(control_plane.config, QUIET)
    synced: list[bool] = []

    class Checks:
        async def reconcile(self, request: Request) -> None:
            synced.append(manager.cache.synced)

    manager.cache.lister(SECRETS)
    watch = Watch(CONFIG_MAPS, to=lambda stored: ())
    manager.add(Controller("singleton", Checks(), sources=[Timer(60.0)], watches=[watch]))
    async with running(manager):
        await eventually(lambda: synced)
    assert synced == [True]


async def test_a_source_that_fails_ends_the_manager(control_plane: ControlPlane) -> None:
    class Broken:
        async def run(self, enqueue: object) -> None:
            raise LookupError("no such queue")

    manager = Manager(control_plane.config, QUIET)
    manager.add(Controller("broken", Recording(), sources=[Broken()]))
    with pytest.raises(LookupError, match="no such queue"):
        await manager.run()


def test_a_controller_that_could_never_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="would never run"):
        Controller("idle", Recording())
    with pytest.raises(ConfigError, match="nothing can be owned"):
        Controller("owner", Recording(), owns=[SECRETS], sources=[Timer(1.0)])
