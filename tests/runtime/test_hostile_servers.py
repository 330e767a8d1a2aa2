"""Servers and networks that misbehave in ways that the local API server does not."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiohttp import web

from kaito.runtime import (
    CONFIG_MAPS,
    PODS,
    Cache,
    Client,
    Expired,
    Manifest,
    NotAcceptable,
    Resource,
    Rest,
    RuntimeMetrics,
    TaskScope,
    manifest_resource,
    metadata_resource,
)
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.reflector import ReflectorMachine
from kaito.runtime.cache.scope import Scope
from kaito.runtime.fairness import LoopBudget
from kaito.runtime.tasks import cancel_and_wait
from support.controlplane import ControlPlane
from support.proxy import Proxy
from support.scripted import Respond, Scripted, event, listing, pod, scripted, status, stream
from support.waiting import BOOKMARKS, eventually


@asynccontextmanager
async def following(
    respond: Respond, *, streaming: bool = False, budget: LoopBudget | None = None
) -> AsyncIterator[tuple[Scripted, Informer[Any]]]:
    """An informer of pods that lists and watches a scripted server."""
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        informer = Informer(
            rest,
            PODS,
            Scope("n"),
            metrics=RuntimeMetrics(),
            machine=ReflectorMachine(streaming=streaming, rng=lambda: 0.0),
            budget=budget,
        )
        task = asyncio.create_task(informer.run())
        try:
            yield script, informer
        finally:
            await cancel_and_wait(task)
            await rest.aclose()


def names(informer: Informer[Any]) -> set[str]:
    return {stored.key.name for stored in informer.lister(lambda: None).stored_list()}


async def test_an_object_of_five_megabytes_passes_as_list_item_and_as_event() -> None:
    """Pitfall 104."""
    big = "x" * 5_000_000

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await stream(request, event("ADDED", pod("streamed", 5, text=big)))
        return listing(pod("listed", 1, text=big), version=1)

    async with following(respond) as (_, informer):
        await eventually(lambda: names(informer) == {"listed", "streamed"})
        found = informer.lister(lambda: None).get("streamed", "n")
        assert found is not None
        assert found["spec"]["text"] == big


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>bad gateway</html>",
        b'{"type":"ADDED","object":{"metadata":{"name":"\xff"}',
        b'{"type":"\xff\xfe","object":{}}',
        b'{"type":"BOOKMARK","object":null}',
        b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":7}}}',
        b'{"type":"ERROR","object":[]}',
        b'{"type":"NEWS","object":{"kind":"Pod","metadata":{"name":"x"}}}',
        b'{"type":"ADDED"}',
        b"[" * 100_000,
        b"null",
    ],
    ids=lambda garbage: garbage[:30].decode(errors="replace"),
)
async def test_garbage_on_the_stream_is_survived_by_a_new_list(garbage: bytes) -> None:
    lists = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        if "watch" in request.query:
            if lists > 1:
                return await stream(request)
            return await stream(request, event("ADDED", pod("a", 5)), garbage + b"\n", event("ADDED", pod("never", 6)))
        lists += 1
        return listing(*([pod("b", 7)] if lists > 1 else []), version=1 if lists == 1 else 8)

    async with following(respond) as (_, informer):
        await eventually(lambda: names(informer) == {"b"})


async def test_an_object_that_is_not_one_does_not_blind_the_informer() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            broken = {"kind": "Pod", "metadata": {"name": ["not", "a", "name"]}}
            wrong = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s", "namespace": "n"}}
            return await stream(request, event("ADDED", broken), event("ADDED", wrong), event("ADDED", pod("a", 5)))
        return listing()

    async with following(respond) as (script, informer):
        await eventually(lambda: names(informer) == {"a"})
        assert script.count(watch=True) == 1


async def test_a_table_is_never_stored() -> None:
    """Pitfall 16."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "rows": []}
        )

    async with following(respond) as (_, informer):
        await eventually(lambda: "Table" in (informer.status().last_error or ""))
        assert not informer.synced
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        with pytest.raises(NotAcceptable, match="Table"):
            await Client(rest).list(PODS, "n")
        await rest.aclose()


@pytest.mark.parametrize("how", ["closes at once", "refuses watches"])
async def test_a_server_that_ends_every_watch_is_not_hammered(how: str) -> None:
    """Pitfalls 62 and 90; a watcher without a delay connects thousands of times in this time."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return (
                await stream(request, hold=False)
                if how == "closes at once"
                else status(403, "Forbidden", "no watching")
            )
        return listing()

    async with following(respond) as (script, informer):
        await eventually(lambda: informer.synced)
        await asyncio.sleep(2.0)
        assert 1 <= script.count(watch=True) < 6
        if how == "refuses watches":
            assert informer.status().last_error == "no watching"


async def test_pages_carry_no_version_and_an_expired_one_is_replaced_by_the_whole_list() -> None:
    """Pitfalls 7 and 8."""

    async def respond(request: web.Request) -> web.StreamResponse:
        query = request.query
        if "watch" in query:
            return await stream(request)
        if "continue" in query:
            if "resourceVersion" in query:
                return status(400, "BadRequest", "resourceVersion and continue")
            return (
                listing(pod("b", 2), version=9, **{"continue": "third"})
                if query["continue"] == "second"
                else status(410, "Expired")
            )
        if "limit" in query:
            return listing(pod("a", 1), version=9, **{"continue": "second"})
        return listing(pod("c", 3), pod("d", 4), version=9)

    async with following(respond) as (_, informer):
        await eventually(lambda: informer.synced)
        assert names(informer) == {"c", "d"}
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        listed = await Client(rest).list(PODS, "n")
        await rest.aclose()
    assert [item["metadata"]["name"] for item in listed] == ["c", "d"]


async def test_a_page_that_fails_is_not_a_page_that_is_lost() -> None:
    """Pitfall 30."""
    failed = False

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal failed
        if "watch" in request.query:
            return await stream(request)
        if "continue" in request.query:
            if not failed:
                failed = True
                return status(500, "InternalError")
            return listing(pod("b", 2), version=9)
        return listing(pod("a", 1), version=9, **{"continue": "second"})

    async with following(respond) as (_, informer):
        await eventually(lambda: informer.synced)
        assert names(informer) == {"a", "b"}


async def test_a_list_never_asks_for_less_than_was_seen() -> None:
    """Pitfalls 5 and 6: another API server that lags behind must wait, or answer that it cannot."""
    asked: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        query = request.query
        if "watch" in query:
            if len(asked) == 1:
                return await stream(
                    request,
                    event("ADDED", pod("a", 50)),
                    event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}),
                )
            return await stream(request)
        asked.append(query.get("resourceVersion", ""))
        if asked[-1] == "50":
            return status(410, "Expired", "too old")
        return listing(version=40) if len(asked) == 1 else listing(pod("a", 50), version=60)

    async with following(respond) as (_, informer):
        await eventually(lambda: len(asked) == 3 and informer.status().resource_version == 60)
        assert asked == ["0", "50", ""]


async def test_a_watch_that_repeats_the_past_and_breaks_brings_nothing_back() -> None:
    watched: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return listing(version=1)
        watched.append(request.query["resourceVersion"])
        match len(watched):
            case 1:
                return await stream(request, event("ADDED", pod("y", 5)), event("DELETED", pod("y", 8)), hold=False)
            case 2:
                return await stream(request, event("ADDED", pod("y", 5)), hold=False)
        return await stream(request, event("ADDED", pod("z", 9)))

    async with following(respond) as (_, informer):
        told: list[str] = []
        informer.add_handler(lambda happened: told.append(f"{happened.type} {happened.current.key.name}"))
        await eventually(lambda: names(informer) == {"z"})
    assert watched == ["1", "8", "8"]
    assert told == ["ADDED y", "DELETED y", "ADDED z"]


def config_map(name: str, namespace: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}}


async def test_a_half_open_connection_is_noticed_by_its_silence(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    """Pitfall 105: no FIN, no RST, nothing; only the bookmarks stop."""
    async with Proxy(control_plane.config.server) as proxy:
        rest = Rest(replace(control_plane.config, server=proxy.url), RuntimeMetrics())
        informer = Informer(rest, CONFIG_MAPS, Scope(namespace), metrics=RuntimeMetrics(), idle_deadline=0.6)
        task = asyncio.create_task(informer.run())
        try:
            await eventually(lambda: informer.synced)
            before = informer.status().resource_version
            await client.create(CONFIG_MAPS, config_map(f"o-{namespace}", "default"))
            await eventually(lambda: informer.status().resource_version > before, deadline=BOOKMARKS)
            accepted = proxy.accepted
            proxy.freeze()
            await client.create(CONFIG_MAPS, config_map("missed", namespace))
            await eventually(lambda: proxy.accepted > accepted)
            proxy.thaw()
            await eventually(lambda: "missed" in names(informer))
            assert informer.status().restarts["Timeout"] >= 1
        finally:
            await cancel_and_wait(task)
            await rest.aclose()


async def test_watches_do_not_keep_writes_or_leases_waiting(
    control_plane: ControlPlane, rest: Rest, namespace: str
) -> None:
    """Pitfall 98: a hundred watches beside one client."""
    informers = [Informer(rest, CONFIG_MAPS, Scope(namespace), metrics=RuntimeMetrics()) for _ in range(100)]
    tasks = [asyncio.create_task(informer.run()) for informer in informers]
    try:
        await eventually(lambda: all(informer.synced for informer in informers))
        async with asyncio.timeout(5):
            await Client(rest).create(CONFIG_MAPS, config_map("a", namespace))
        await eventually(lambda: all("a" in names(informer) for informer in informers))
    finally:
        for task in tasks:
            await cancel_and_wait(task)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 99."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(pod("a", 1))

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        assert (await Client(rest).get(PODS, "a", "n"))["metadata"]["name"] == "a"
        await rest.aclose()


async def test_server_warnings_are_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(pod("a", 1), headers={"Warning": '299 - "widgets are deprecated"'})

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        for _ in range(3):
            await Client(rest).get(PODS, "a", "n")
        await rest.aclose()
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("widgets are deprecated") == 1


async def test_an_object_that_is_not_utf_8_is_skipped() -> None:
    latin = b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"\xe9"}}}\n'

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await stream(request, latin, event("ADDED", pod("a", 5)))
        return listing()

    async with following(respond) as (script, informer):
        await eventually(lambda: names(informer) == {"a"})
        assert script.count(watch=True) == 1


async def test_a_list_with_one_object_twice_is_a_list_with_that_object() -> None:
    """Pitfall 19."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await stream(request)
        return listing(pod("a", 1), pod("a", 1), pod("b", 2), version=2)

    async with following(respond) as (_, informer):
        await eventually(lambda: informer.synced)
        assert names(informer) == {"a", "b"}


def streamed(request: web.Request, *objects: dict[str, Any], version: int) -> list[bytes]:
    """The initial part of a streaming list."""
    assert request.query["sendInitialEvents"] == "true"
    assert request.query["resourceVersionMatch"] == "NotOlderThan"
    metadata = {"resourceVersion": str(version), "annotations": {"k8s.io/initial-events-end": "true"}}
    return [*(event("ADDED", obj) for obj in objects), event("BOOKMARK", {"kind": "Pod", "metadata": metadata})]


async def test_the_state_is_streamed_once_stripped_and_complete_only_at_the_right_bookmark() -> None:
    """Pitfalls 18, 20 and 29."""
    watches: list[dict[str, str]] = []
    more = asyncio.Event()
    managed = pod("a", 1)
    managed["metadata"]["managedFields"] = [{"manager": "kubectl"}]

    async def respond(request: web.Request) -> web.StreamResponse:
        watches.append(dict(request.query))
        if len(watches) > 1:
            return await stream(request)
        lines = streamed(request, managed, pod("gone", 2), pod("b", 3), version=9)
        response = web.StreamResponse()
        await response.prepare(request)
        other = {
            "kind": "Pod",
            "metadata": {"resourceVersion": "8", "annotations": {"k8s.io/initial-events-end": "no"}},
        }
        for line in [*lines[:3], event("BOOKMARK", other), event("DELETED", pod("gone", 8))]:
            await response.write(line)
        await more.wait()
        await response.write(lines[3])
        return response

    async with following(respond, streaming=True) as (_, informer):
        told: list[tuple[str, bool, bool]] = []
        informer.add_handler(lambda event: told.append((event.current.key.name, event.initial, informer.synced)))
        await eventually(lambda: watches)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not informer.synced
        assert names(informer) == set()
        more.set()
        await informer.wait_synced()
        assert told == [("a", True, False), ("b", True, False)], "synced means that every handler has been told"
        stored = informer.lister(lambda: None).stored("a", "n")
        assert stored is not None
        assert b"managedFields" not in stored.data
        await eventually(lambda: len(watches) == 2)
    assert "sendInitialEvents" not in watches[1]
    assert watches[1]["resourceVersion"] == "9"


async def test_a_server_that_never_finishes_streaming_is_listed() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return await stream(request, event("ADDED", pod("a", 1)), hold=False)
        return await stream(request) if "watch" in request.query else listing(pod("a", 1), version=5)

    async with following(respond, streaming=True) as (script, informer):
        await eventually(lambda: informer.synced)
        assert names(informer) == {"a"}
        assert script.count(watch=False) == 1


async def test_a_watch_is_left_by_closing_its_connection() -> None:
    """Pitfalls 13 and 106: whatever the reason for leaving it."""
    left = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal left
        if "watch" not in request.query:
            return listing()
        try:
            return await stream(request, *([b"garbage\n"] if left == 0 else [event("ADDED", pod("a", 5))]))
        finally:
            left += 1

    async with following(respond) as (_, informer):
        await eventually(lambda: left == 1)
        await eventually(lambda: names(informer) == {"a"})
    await eventually(lambda: left == 2)


async def test_leaving_between_two_pages_leaves_nothing_open() -> None:
    """Pitfall 106."""
    reached = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        if "continue" in request.query:
            reached.set()
            await asyncio.Event().wait()
        return listing(pod("a", 1), version=9, **{"continue": "second"})

    async with following(respond) as (_, informer):
        await reached.wait()
        assert not informer.synced


async def test_a_list_taken_again_needs_no_memory_for_what_did_not_change() -> None:
    """Pitfall 34."""
    pods = [pod(f"p{number}", number + 1, text="x" * 2000) for number in range(2000)]
    pages = [
        listing(*pods[start : start + 500], version=5000, **({"continue": str(start + 500)} if start < 1500 else {}))
        for start in range(0, 2000, 500)
    ]
    bodies = [page.body for page in pages]
    lists = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        if "watch" in request.query:
            return await stream(request, hold=False) if lists == 1 else await stream(request)
        start = int(request.query.get("continue", "0"))
        lists += start == 0
        return web.Response(body=bodies[start // 500], content_type="application/json")

    tracemalloc.start()
    try:
        async with following(respond) as (_, informer):
            await informer.wait_synced()
            assert informer.status().objects == 2000
            steady = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            await eventually(lambda: lists == 2 and informer.status().phase == "watching")
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    page = len(str(bodies[0]))
    assert peak - steady < 5 * page, "a few copies of one page, and not of everything"


async def test_a_large_list_lets_others_have_their_turn() -> None:
    """Pitfall 107: with a budget of nothing, there is a turn of the event loop between any two objects."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return listing(*(pod(f"p{number}", number + 1) for number in range(500)), version=1000)
        lines = [event("MODIFIED", pod(f"p{number}", 2000 + number)) for number in range(500)]
        return await stream(request, b"".join(lines))

    async with following(respond, budget=LoopBudget(0.0)) as (_, informer):
        told: dict[str, set[int]] = {}
        informer.add_handler(lambda event: told.setdefault(event.type.value, set()).add(turns))
        other = asyncio.create_task(count())
        await eventually(lambda: informer.status().resource_version == 2499)
        await cancel_and_wait(other)
    assert {kind: len(when) >= 499 for kind, when in told.items()} == {"ADDED": True, "UPDATED": True}


async def test_metadata_alone_has_its_kind() -> None:
    """Pitfall 40: servers leave it out of lists, and say PartialObjectMetadata in watches."""

    async def respond(request: web.Request) -> web.StreamResponse:
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
        if "watch" in request.query:
            return await stream(request, event("ADDED", {**partial, "metadata": pod("b", 5)["metadata"]}))
        return listing({"metadata": pod("a", 1)["metadata"]})

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        informer = Informer(
            rest,
            metadata_resource(PODS),
            Scope("n"),
            metrics=RuntimeMetrics(),
            machine=ReflectorMachine(streaming=False),
        )
        task = asyncio.create_task(informer.run())
        await eventually(lambda: informer.status().objects == 2)
        for stored in informer.lister(lambda: None).stored_list():
            document = json.loads(stored.data)
            assert (document["kind"], document["apiVersion"]) == ("Pod", "v1")
        await cancel_and_wait(task)
        await rest.aclose()


async def test_one_resource_read_as_two_types_gives_each_reader_its_own() -> None:
    class Pod(msgspec.Struct):
        kind: str

    typed = Resource("", "v1", "Pod", "pods", True, msgspec.json.Decoder(Pod).decode, msgspec.json.encode)

    async def respond(request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return status(400, "BadRequest", "sendInitialEvents is not known here")
        return await stream(request) if "watch" in request.query else listing(pod("a", 1))

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        cache = Cache(rest, RuntimeMetrics())
        plain, structs = cache.lister(PODS), cache.lister(typed)
        again = manifest_resource("", "v1", "Pod", "pods")
        assert cache.informer(again) is cache.informer(PODS) is cache.informer(typed)
        cache.add_index(PODS, "name", lambda stored: [stored.key.name])  # before anything runs or exists
        tasks = TaskScope(lambda name, error: None)
        cache.start(tasks)
        await cache.wait_synced(5)
        assert isinstance(plain.get("a", "n"), dict)
        assert structs.get("a", "n") == Pod("Pod")
        assert [stored.key.name for stored in plain.by_index("name", "a")] == ["a"]
        await tasks.aclose()
        await rest.aclose()


async def test_a_first_page_that_expired_is_the_callers_to_deal_with() -> None:
    """Pitfall 8."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return status(410, "Expired", "too old")

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        with pytest.raises(Expired):
            await Client(rest).list(PODS, "n")
        assert len(script.requests) == 1
        await rest.aclose()


@pytest.mark.parametrize("streaming", [False, True], ids=["list", "stream"])
async def test_a_server_restored_from_a_backup_is_believed(streaming: bool) -> None:
    """Pitfall 9: versions go back, what was made since is gone, and what was deleted since is there again."""
    restored = asyncio.Event()
    before = [pod("changed", 50), pod("new", 60)]
    after = [pod("changed", 40), pod("old", 30)]

    async def respond(request: web.Request) -> web.StreamResponse:
        gone_back = restored.is_set()
        objects, version = (after, 70) if gone_back else (before, 100)
        if int(request.query.get("resourceVersion") or 0) > version:
            return status(504, "Timeout", f"Too large resource version: 100, current: {version}")
        if "watch" not in request.query:
            return listing(*objects, version=version)
        lines = []
        if "sendInitialEvents" in request.query:
            annotations = {"k8s.io/initial-events-end": "true"}
            end = {"kind": "Pod", "metadata": {"resourceVersion": str(version), "annotations": annotations}}
            lines = [*(event("ADDED", item) for item in objects), event("BOOKMARK", end)]
        if gone_back:
            # A version that the lost history had, too.
            return await stream(request, *lines, event("MODIFIED", pod("old", 90)))
        response = await stream(request, *lines, hold=False)
        await restored.wait()
        return response

    told: list[str] = []
    async with following(respond, streaming=streaming) as (_, informer):
        informer.add_handler(lambda happened: told.append(f"{happened.type} {happened.current.key.name}"))
        await informer.wait_synced()
        assert names(informer) == {"changed", "new"}
        told.clear()
        restored.set()
        await eventually(lambda: told == ["DELETED new", "UPDATED changed", "ADDED old", "UPDATED old"])
        held = {stored.key.name: stored.revision for stored in informer.store.snapshot()}
    assert held == {"changed": 40, "old": 90}
