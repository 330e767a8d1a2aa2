"""Watches: order, selectors, resumption, bookmarks, expiry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kaito.devcluster.apiserver import ApiServerOptions
from support.waiting import eventually

if TYPE_CHECKING:
    from devcluster.harness import Kube

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def server_options() -> ApiServerOptions:
    return ApiServerOptions(bookmark_interval=0.05, watch_buffer=50)


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Any:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


@pytest.mark.parametrize("version", ["", "0"])
async def test_without_a_version_the_objects_come_first(kube: Kube, version: str) -> None:
    await kube.post(CONFIG_MAPS, config_map("b"))
    await kube.post(CONFIG_MAPS, config_map("a"))
    watch = await kube.watch(CONFIG_MAPS, resourceVersion=version)
    assert await watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]
    await kube.delete(f"{CONFIG_MAPS}/a")
    deleted = await watch.next()
    assert deleted["type"] == "DELETED"
    assert deleted["object"]["kind"] == "ConfigMap"
    assert int(deleted["object"]["metadata"]["resourceVersion"]) == kube.server.revision


async def test_a_watch_resumes_strictly_after_its_version(kube: Kube) -> None:
    first = await kube.post(CONFIG_MAPS, config_map("a"))
    await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    await kube.post(CONFIG_MAPS, config_map("b"))
    watch = await kube.watch(CONFIG_MAPS, resourceVersion=first.rv)
    assert await watch.take(2) == [("MODIFIED", "a"), ("ADDED", "b")]
    await kube.delete(f"{CONFIG_MAPS}/b")
    assert await watch.take(1) == [("DELETED", "b")]


async def test_a_version_from_the_future_is_waited_for(kube: Kube) -> None:
    watch = await kube.watch(CONFIG_MAPS, resourceVersion=str(kube.server.revision + 2))
    for name in ("a", "b", "c"):
        await kube.post(CONFIG_MAPS, config_map(name))
    assert await watch.take(1) == [("ADDED", "c")]


@pytest.mark.parametrize("truth", ["1", "t", "T", "true", "True", "TRUE"])
async def test_booleans_as_go_spells_them(kube: Kube, truth: str) -> None:
    await kube.post(CONFIG_MAPS, config_map("a"))
    watch = await kube.watch(CONFIG_MAPS, watch=truth)
    assert await watch.take(1) == [("ADDED", "a")]


async def test_entering_and_leaving_a_selection(kube: Kube) -> None:
    watch = await kube.watch(CONFIG_MAPS, labelSelector="on=yes", resourceVersion=str(kube.server.revision))
    await kube.post(CONFIG_MAPS, config_map("a"))
    await kube.merge(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"on": "yes"}}})
    await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    await kube.merge(f"{CONFIG_MAPS}/a", {"metadata": {"labels": {"on": "no"}}, "data": {"x": "2"}})
    await kube.delete(f"{CONFIG_MAPS}/a")
    await kube.post(CONFIG_MAPS, config_map("b", {"on": "yes"}))

    events = [await watch.next() for _ in range(4)]

    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    assert events[2]["object"]["data"] == {"x": "1"}
    assert int(events[2]["object"]["metadata"]["resourceVersion"]) > int(
        events[1]["object"]["metadata"]["resourceVersion"]
    )


async def test_one_object_by_name(kube: Kube) -> None:
    await kube.post(CONFIG_MAPS, config_map("a"))
    await kube.post(CONFIG_MAPS, config_map("b"))
    by_field = await kube.watch(CONFIG_MAPS, fieldSelector="metadata.name=b", resourceVersion="0")
    by_path = await kube.watch(f"{CONFIG_MAPS}/b")
    for watch in (by_field, by_path):
        assert await watch.take(1) == [("ADDED", "b")]
    await kube.merge(f"{CONFIG_MAPS}/a", {"data": {"x": "1"}})
    await kube.merge(f"{CONFIG_MAPS}/b", {"data": {"x": "1"}})
    for watch in (by_field, by_path):
        assert await watch.take(1) == [("MODIFIED", "b")]


async def test_too_old_is_told_in_the_stream(kube: Kube) -> None:
    old = (await kube.post(CONFIG_MAPS, config_map("a"))).rv
    kube.server.compact()
    watch = await kube.watch(CONFIG_MAPS, resourceVersion=old)
    compacted = kube.server.revision
    assert compacted == int(old), "the latest revision itself is not too old"
    await kube.post(CONFIG_MAPS, config_map("b"))
    assert await watch.take(1) == [("ADDED", "b")]
    kube.server.compact()
    expired = await kube.watch(CONFIG_MAPS, resourceVersion=old)
    (event,) = await expired.ended()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"] == f"too old resource version: {old} ({kube.server.revision})"


async def test_the_window_bounds_what_is_remembered(kube: Kube) -> None:
    kube.server.shrink_window(2)
    versions = [(await kube.post(CONFIG_MAPS, config_map(name))).rv for name in "abcd"]
    resumed = await kube.watch(CONFIG_MAPS, resourceVersion=versions[1])
    assert await resumed.take(2) == [("ADDED", "c"), ("ADDED", "d")]
    expired = await kube.watch(CONFIG_MAPS, resourceVersion=versions[0])
    assert [event["type"] for event in await expired.ended()] == ["ERROR"]


async def test_bookmarks_only_when_asked_for(kube: Kube) -> None:
    start = str(kube.server.revision)
    plain = await kube.watch(CONFIG_MAPS, resourceVersion=start, timeoutSeconds="1")
    marked = await kube.watch(CONFIG_MAPS, resourceVersion=start, allowWatchBookmarks="true", timeoutSeconds="1")
    await kube.post("/api/v1/namespaces/kube-system/configmaps", config_map("elsewhere"))
    while (event := await marked.next())["object"]["metadata"]["resourceVersion"] == start:
        assert event["type"] == "BOOKMARK"
    assert event == {
        "type": "BOOKMARK",
        "object": {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(kube.server.revision), "creationTimestamp": None},
        },
    }
    assert (await marked.ended())[-1]["type"] == "BOOKMARK"
    assert await plain.ended() == []


async def test_initial_events_end_with_their_bookmark(kube: Kube) -> None:
    await kube.post(CONFIG_MAPS, config_map("a"))
    watch = await kube.watch(
        CONFIG_MAPS, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true"
    )
    assert await watch.take(1) == [("ADDED", "a")]
    end = await watch.next()
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert end["object"]["metadata"]["resourceVersion"] == str(kube.server.revision)

    refused = await kube.get(CONFIG_MAPS, watch="1", sendInitialEvents="true")
    assert refused.status == 422
    assert (await kube.get(CONFIG_MAPS, sendInitialEvents="true")).status == 422


async def test_a_timeout_ends_the_stream(kube: Kube) -> None:
    watch = await kube.watch(CONFIG_MAPS, timeoutSeconds="1", resourceVersion="0")
    assert await watch.ended() == []
    await eventually(lambda: kube.server.open_watches == 0)


async def test_a_client_that_leaves_ends_its_watch(kube: Kube) -> None:
    watch = await kube.watch(CONFIG_MAPS, resourceVersion="0")
    await eventually(lambda: kube.server.open_watches == 1)
    watch.close()
    await eventually(lambda: kube.server.open_watches == 0)


async def test_cut_watches_end_cleanly_and_can_be_resumed(kube: Kube) -> None:
    created = await kube.post(CONFIG_MAPS, config_map("a"))
    watch = await kube.watch(CONFIG_MAPS, resourceVersion="0")
    assert await watch.take(1) == [("ADDED", "a")]
    kube.server.cut_watches()
    assert await watch.ended() == []
    await kube.post(CONFIG_MAPS, config_map("b"))
    again = await kube.watch(CONFIG_MAPS, resourceVersion=created.rv)
    assert await again.take(1) == [("ADDED", "b")]


async def test_a_slow_watcher_is_cut_not_buffered_for_ever(kube: Kube) -> None:
    watch = await kube.watch(CONFIG_MAPS, resourceVersion="0")
    watch.response.connection.protocol.pause_reading()
    payload = "x" * 100_000
    async with asyncio.timeout(30):
        for number in range(300):
            await kube.post(CONFIG_MAPS, config_map(f"c{number}", x=payload))
            if not kube.server.open_watches:
                break
        await eventually(lambda: kube.server.open_watches == 0)


async def test_tables_carry_their_columns_once(kube: Kube) -> None:
    await kube.post(CONFIG_MAPS, config_map("a", x="1"))
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    watch = await kube.watch(CONFIG_MAPS, headers=accept, resourceVersion="0")
    first = (await watch.next())["object"]
    assert [column["name"] for column in first["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert first["rows"][0]["cells"][:2] == ["a", 1]
    await kube.post(CONFIG_MAPS, config_map("b"))
    second = (await watch.next())["object"]
    assert not second["columnDefinitions"]
    assert second["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
