"""Informers against an API server that disconnects, compacts, throttles, falls silent and sends nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    CONFIG_MAPS,
    Cache,
    CacheNotStarted,
    Client,
    Event,
    EventType,
    Forbidden,
    Invalid,
    LabelSelector,
    Manifest,
    Rest,
    RuntimeMetrics,
    SyncTimeout,
    TaskScope,
    TooManyRequests,
    manifest_resource,
    metadata_resource,
)
from kaito.runtime.cache.cache import wait_synced
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.reflector import ReflectorMachine
from kaito.runtime.cache.scope import Scope
from kaito.runtime.tasks import cancel_and_wait
from support.front import Front
from support.waiting import BOOKMARKS, eventually


def config_map(name: str, namespace: str, value: str = "", **metadata: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": {"value": value},
    }


class Recorder:
    """A handler that keeps what it was told, and the state that follows from it."""

    def __init__(self) -> None:
        self.events: list[Event[Any]] = []
        self.state: dict[str, str] = {}

    def __call__(self, event: Event[Any]) -> None:
        self.events.append(event)
        name = event.current.key.name
        if event.type is EventType.DELETED:
            del self.state[name]
        else:
            assert (event.type is EventType.ADDED) == (name not in self.state) or event.resync
            self.state[name] = event.current.decode().get("data", {}).get("value", "")


@asynccontextmanager
async def running(
    rest: Rest, scope: Scope, *, streaming: bool = True
) -> AsyncIterator[tuple[Informer[Manifest], Recorder]]:
    informer = Informer(
        rest,
        CONFIG_MAPS,
        scope,
        metrics=RuntimeMetrics(),
        machine=ReflectorMachine(streaming=streaming, rng=lambda: 0.0),
    )
    recorder = Recorder()
    informer.add_handler(recorder)
    task = asyncio.create_task(informer.run(), name="informer under test")
    try:
        await wait_synced([informer], 10.0)
        yield informer, recorder
    finally:
        await cancel_and_wait(task)


@pytest.fixture(params=[True, False], ids=["streaming", "list and watch"])
def streaming(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_it_follows_every_change_in_order(rest: Rest, client: Client, namespace: str, streaming: bool) -> None:
    await client.create(CONFIG_MAPS, config_map("before", namespace, "1"))
    async with running(rest, Scope(namespace), streaming=streaming) as (informer, recorder):
        assert recorder.state["before"] == "1"
        assert all(event.initial for event in recorder.events)
        await client.create(CONFIG_MAPS, config_map("a", namespace, "1"))
        await client.patch(CONFIG_MAPS, "a", {"data": {"value": "2"}}, namespace=namespace)
        await client.delete(CONFIG_MAPS, "before", namespace)
        await eventually(lambda: recorder.state.get("a") == "2" and "before" not in recorder.state)
        kinds = [(event.type.value, event.initial) for event in recorder.events if event.current.key.name == "a"]
        assert kinds == [("ADDED", False), ("UPDATED", False)]
        status = informer.status()
        assert status.synced
        assert status.last_error is None


async def test_a_late_handler_is_told_of_what_exists_first(rest: Rest, client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map("a", namespace, "1"))
    async with running(rest, Scope(namespace)) as (informer, _):
        late = Recorder()
        registration = informer.add_handler(late)
        assert late.state["a"] == "1"
        assert late.events[0].initial
        registration.remove()
        registration.remove()
        count = len(late.events)
        await client.create(CONFIG_MAPS, config_map("b", namespace))
        await eventually(lambda: informer.lister(lambda: None).get("b", namespace) is not None)
        assert len(late.events) == count


async def test_a_handler_that_fails_is_contained(rest: Rest, client: Client, namespace: str) -> None:
    async with running(rest, Scope(namespace)) as (informer, recorder):

        def broken(event: Event[Any]) -> None:
            raise KeyError(event.current.key.name)

        informer.add_handler(broken)
        await client.create(CONFIG_MAPS, config_map("a", namespace))
        await eventually(lambda: "a" in recorder.state)


async def test_a_selector_narrows_and_leaving_it_is_a_deletion(rest: Rest, client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map("in", namespace, labels={"x": "1"}))
    await client.create(CONFIG_MAPS, config_map("out", namespace))
    async with running(rest, Scope(namespace, LabelSelector.of({"x": "1"}))) as (_, recorder):
        assert set(recorder.state) == {"in"}
        await client.patch(CONFIG_MAPS, "in", {"metadata": {"labels": {"x": "2"}}}, namespace=namespace)
        await client.patch(CONFIG_MAPS, "out", {"metadata": {"labels": {"x": "1"}}}, namespace=namespace)
        await eventually(lambda: set(recorder.state) == {"out"})


async def test_it_cannot_run_twice(rest: Rest, namespace: str) -> None:
    async with running(rest, Scope(namespace)) as (informer, _):
        with pytest.raises(RuntimeError, match="already runs"):
            await informer.run()


async def test_after_a_cut_it_goes_on_without_listing_again(
    front: Front, rest: Rest, client: Client, namespace: str, streaming: bool
) -> None:
    async with running(rest, Scope(namespace), streaming=streaming) as (_, recorder):
        await client.create(CONFIG_MAPS, config_map("a", namespace))
        await eventually(lambda: "a" in recorder.state)
        lists = front.faults.add(Fault("list", "configmaps", count=-1))
        front.cut_watches()
        await client.create(CONFIG_MAPS, config_map("b", namespace))
        await eventually(lambda: "b" in recorder.state)
        assert lists.hits == 0


async def test_what_happened_before_a_compaction_is_found_by_a_new_list(
    front: Front, rest: Rest, client: Client, namespace: str, streaming: bool
) -> None:
    for name in ("kept", "gone", "changed"):
        await client.create(CONFIG_MAPS, config_map(name, namespace, "1"))
    async with running(rest, Scope(namespace), streaming=streaming) as (_, recorder):
        block = front.faults.add(
            Fault("watch", "configmaps", error=TooManyRequests("busy", retry_after=0.05), count=-1)
        )
        front.cut_watches()
        await client.delete(CONFIG_MAPS, "gone", namespace)
        await client.patch(CONFIG_MAPS, "changed", {"data": {"value": "2"}}, namespace=namespace)
        await client.create(CONFIG_MAPS, config_map("new", namespace, "1"))
        await front.compact()
        front.faults.remove(block)
        await eventually(
            lambda: (
                {**recorder.state, "kube-root-ca.crt": ""}
                == {"kept": "1", "changed": "2", "new": "1", "kube-root-ca.crt": ""}
            )
        )
        (deletion,) = (event for event in recorder.events if event.type is EventType.DELETED)
        assert deletion.final_state_unknown
        update = next(event for event in recorder.events if event.type is EventType.UPDATED)
        assert update.old is not None
        assert update.old.decode()["data"]["value"] == "1"


async def test_a_server_without_streaming_lists_is_listed(
    front: Front, rest: Rest, client: Client, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    refused = front.faults.add(Fault("watch", "configmaps", error=Invalid("sendInitialEvents is forbidden"), count=1))
    async with running(rest, Scope(namespace)) as (_, recorder):
        assert "a" in recorder.state
        assert refused.hits == 1
        await client.create(CONFIG_MAPS, config_map("b", namespace))
        await eventually(lambda: "b" in recorder.state)


async def test_a_bookmark_moves_it_past_what_it_does_not_watch(
    front: Front, rest: Rest, client: Client, namespace: str
) -> None:
    async with running(rest, Scope(namespace)) as (informer, _):
        before = informer.status().resource_version
        for number in range(5):
            await client.create(CONFIG_MAPS, config_map(f"elsewhere-{namespace}-{number}", "default"))
        await eventually(lambda: informer.status().resource_version > before, deadline=BOOKMARKS)


async def test_a_server_that_closes_at_once_is_not_hammered(front: Front, rest: Rest, namespace: str) -> None:
    async with running(rest, Scope(namespace)) as _:
        closed = front.faults.add(Fault("watch", "configmaps", drop="before", count=-1))
        front.cut_watches()
        await eventually(lambda: closed.hits >= 2)
        await asyncio.sleep(1.0)
        assert closed.hits < 10


async def test_an_own_write_is_readable_before_the_call_returns(rest: Rest, namespace: str) -> None:
    metrics = RuntimeMetrics()
    cache = Cache(rest, metrics)
    client = Client(rest, observer=cache)
    lister = cache.lister(CONFIG_MAPS, namespaces=[namespace])
    with pytest.raises(CacheNotStarted):
        lister.get("a", namespace)
    errors: list[tuple[str, BaseException]] = []
    tasks = TaskScope(lambda name, error: errors.append((name, error)))
    cache.start(tasks)
    try:
        await cache.wait_synced(10.0)
        for number in range(50):
            name = f"c{number % 5}"
            if number < 5:
                await client.create(CONFIG_MAPS, config_map(name, namespace, str(number)))
            else:
                await client.patch(CONFIG_MAPS, name, {"data": {"value": str(number)}}, namespace=namespace)
            found = lister.get(name, namespace)
            assert found is not None
            assert found["data"]["value"] == str(number)
        await client.delete(CONFIG_MAPS, "c0", namespace)
        assert lister.get("c0", namespace) is None
        await client.create(CONFIG_MAPS, config_map("c0", namespace, "again"))
        assert lister.stored("c0", namespace) is not None
    finally:
        await tasks.aclose()
    assert errors == []


async def test_metadata_alone_is_sent_and_kept_where_no_more_is_wanted(
    rest: Rest, namespace: str, streaming: bool
) -> None:
    metadata = metadata_resource(CONFIG_MAPS)
    informer = Informer(
        rest,
        metadata,
        Scope(namespace),
        metrics=RuntimeMetrics(),
        machine=ReflectorMachine(streaming=streaming, rng=lambda: 0.0),
    )
    client = Client(rest)
    created = await client.create(CONFIG_MAPS, config_map("a", namespace, "x" * 10_000, labels={"x": "1"}))
    task = asyncio.create_task(informer.run())
    try:
        await wait_synced([informer], 10.0)
        lister = informer.lister(lambda: None)
        found = lister.get("a", namespace)
        assert found is not None
        assert (found.uid, found.labels) == (created["metadata"]["uid"], {"x": "1"})
        written = await client.create(CONFIG_MAPS, config_map("b", namespace, "y" * 10_000))
        informer.written(CONFIG_MAPS.encode(written))
        assert lister.get("b", namespace) is not None
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"x": "2"}}}, namespace=namespace)
        await eventually(lambda: lister.list(labels={"x": "2"}))
        assert informer.status().bytes < 4_000
    finally:
        await cancel_and_wait(task)
    with pytest.raises(TypeError, match="metadata only"):
        await client.create(metadata, found)


async def test_a_sync_that_takes_too_long_says_what_is_missing(front: Front, rest: Rest, namespace: str) -> None:
    words = 'workspaces.kaito.sh is forbidden: User "x" cannot list resource'
    front.faults.add(Fault("list", "configmaps", error=Forbidden(words), count=-1))
    front.faults.add(Fault("watch", "configmaps", error=Forbidden(words), count=-1))
    missing = manifest_resource("example.com", "v1", "Widget", "widgets")
    cache = Cache(rest, RuntimeMetrics())
    cache.informer(CONFIG_MAPS)
    cache.informer(missing)
    tasks = TaskScope(lambda name, error: None)
    cache.start(tasks)
    try:
        await eventually(lambda: all(status.last_error for status in cache.statuses()))
        with pytest.raises(SyncTimeout) as caught:
            await cache.wait_synced(0.1)
    finally:
        await tasks.aclose()
    assert "ConfigMap.v1" in str(caught.value)
    assert words in str(caught.value)
    assert "Widget.example.com/v1: the server could not find the requested resource" in str(caught.value)


async def test_stopping_during_back_off_is_immediate(front: Front, rest: Rest, namespace: str) -> None:
    front.faults.add(Fault("*", "configmaps", error=Forbidden("no"), count=-1))
    informer = Informer(rest, CONFIG_MAPS, Scope(namespace), metrics=RuntimeMetrics())
    task = asyncio.create_task(informer.run())
    await eventually(lambda: informer.status().last_error)
    async with asyncio.timeout(0.5):
        await cancel_and_wait(task)
