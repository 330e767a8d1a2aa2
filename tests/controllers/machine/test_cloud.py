"""One list for all: how often it is asked for, what counts when answers disagree, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from kaito.controllers.machine.cloud import Cloud
from kaito.provisioner import Instance, InstanceNotFound, InstanceState, ProviderError, Throttled, Unavailable

pytestmark = pytest.mark.looptime

RUNNING = Instance("ws1", InstanceState.RUNNING, "Succeeded", "Standard_NC6s_v3", "uid-1")
CREATING = replace(RUNNING, state=InstanceState.CREATING, phase="Creating")
DELETING = replace(RUNNING, state=InstanceState.DELETING)


class Provider:
    name = "fake"

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.lists: list[float] = []
        """When each was asked for."""
        self.failure: Exception | None = None
        self.slow = 0.0
        """Seconds that a list takes."""
        self.gets = 0

    async def create(self, spec: Any) -> Instance:
        return self.instances.setdefault("ws1", CREATING)

    async def get(self, name: str) -> Instance:
        self.gets += 1
        if name not in self.instances:
            raise InstanceNotFound("none")
        return self.instances[name]

    async def list(self) -> list[Instance]:
        self.lists.append(asyncio.get_running_loop().time())
        answer = list(self.instances.values())
        await asyncio.sleep(self.slow)
        if self.failure is not None:
            raise self.failure
        return answer

    async def delete(self, instance: Instance) -> None:
        self.instances.pop(instance.name)

    async def instance_types(self) -> Any:
        return []

    async def aclose(self) -> None:
        """There is nothing to close."""


@asynccontextmanager
async def running(provider: Provider) -> AsyncIterator[tuple[Cloud, list[str]]]:
    told: list[str] = []
    cloud = Cloud(provider, told.append, interval=10.0, idle_interval=120.0)
    task = asyncio.create_task(cloud.run())
    try:
        yield cloud, told
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_lists_are_rare_while_nothing_changes_and_frequent_while_something_does() -> None:
    provider = Provider()
    async with running(provider) as (cloud, _):
        await asyncio.sleep(500)
        assert [round(at) for at in provider.lists] == [0, 120, 240, 360, 480]
        provider.instances["ws1"] = CREATING
        cloud.expect("ws1")
        await asyncio.sleep(35)
        assert [round(at) for at in provider.lists[5:]] == [510, 520, 530]
        provider.instances["ws1"] = RUNNING
        await asyncio.sleep(200)
        # The one that saw it settle, and then again the slow pace.
        assert [round(at) for at in provider.lists[8:]] == [540, 660]


async def test_who_awaits_a_change_is_told_of_it_once() -> None:
    provider = Provider()
    provider.instances["ws1"] = CREATING
    async with running(provider) as (cloud, told):
        await asyncio.sleep(1)
        assert told == ["ws1"]
        cloud.expect("ws1")
        await asyncio.sleep(60)
        assert told == ["ws1"]
        provider.instances["ws1"] = RUNNING
        await asyncio.sleep(60)
        assert told == ["ws1", "ws1"]
        assert cloud.find("ws1") == RUNNING


async def test_a_list_that_was_asked_for_before_a_call_does_not_count_against_its_answer() -> None:
    provider = Provider()
    provider.slow = 5.0
    async with running(provider) as (cloud, _):
        await asyncio.sleep(1)
        # While the list is on its way, and knows nothing of it:
        await cloud.create(None)  # type: ignore[arg-type]  # what is made does not matter here
        await asyncio.sleep(5)
        assert cloud.synced
        assert cloud.find("ws1") == CREATING


async def test_a_deletion_counts_until_a_later_list() -> None:
    provider = Provider()
    provider.instances["ws1"] = RUNNING
    async with running(provider) as (cloud, told):
        await asyncio.sleep(1)
        await cloud.delete(RUNNING)
        assert cloud.find("ws1") == DELETING
        cloud.expect("ws1")
        told.clear()
        await asyncio.sleep(30)
        assert cloud.find("ws1") is None
        assert told == ["ws1"]


async def test_a_list_that_fails_changes_nothing_and_is_told_to_those_who_wait() -> None:
    provider = Provider()
    provider.instances["ws1"] = CREATING
    async with running(provider) as (cloud, told):
        await asyncio.sleep(1)
        cloud.expect("ws1")
        told.clear()
        provider.failure = Unavailable("away")
        await asyncio.sleep(60)
        assert (cloud.find("ws1"), str(cloud.error)) == (CREATING, "away")
        assert told == ["ws1"]
        provider.failure = None
        await asyncio.sleep(60)
        assert cloud.error is None
        assert told == ["ws1", "ws1"]


async def test_nothing_is_known_before_the_first_list_and_all_who_wait_are_told_of_it() -> None:
    provider = Provider()
    provider.failure = Unavailable("away")
    async with running(provider) as (cloud, told):
        cloud.expect("ws1")
        await asyncio.sleep(30)
        assert not cloud.synced
        told.clear()
        provider.failure = None
        await asyncio.sleep(30)
        assert cloud.synced
        assert "ws1" in told


async def test_a_pause_that_the_cloud_asks_for_is_kept() -> None:
    provider = Provider()
    provider.failure = Throttled("slow", retry_after=77.0)
    async with running(provider) as (cloud, _):
        cloud.expect("ws1")
        await asyncio.sleep(200)
        assert [round(at) for at in provider.lists] == [0, 77, 154]


async def test_a_defect_of_a_provider_does_not_end_the_lists() -> None:
    provider = Provider()
    provider.failure = KeyError("a field of a new API version")
    async with running(provider) as (cloud, _):
        cloud.expect("ws1")
        await asyncio.sleep(25)
        assert len(provider.lists) == 3
        assert isinstance(cloud.error, ProviderError)
        assert "KeyError" in str(cloud.error)


async def test_what_is_certainly_gone_is_not_asked_for_again() -> None:
    provider = Provider()
    async with running(provider) as (cloud, _):
        await asyncio.sleep(1)
        for _ in range(3):
            with pytest.raises(InstanceNotFound):
                await cloud.get("ws1")
        assert provider.gets == 1
        # Until a list may have seen another.
        await asyncio.sleep(1)
        await cloud.refresh()
        provider.instances["ws1"] = RUNNING
        assert await cloud.get("ws1") == RUNNING


async def test_a_list_that_comes_after_a_younger_one_brings_nothing_back() -> None:
    provider = Provider()
    provider.instances["ws1"] = RUNNING
    provider.slow = 5.0
    cloud = Cloud(provider, lambda name: None, interval=10.0, idle_interval=120.0)
    late = asyncio.create_task(cloud.refresh())
    await asyncio.sleep(1)
    provider.slow = 0.0
    provider.instances.clear()
    assert await cloud.refresh() == {}
    assert await late == {}
    assert cloud.find("ws1") is None
