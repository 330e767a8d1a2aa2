"""Servers and networks that misbehave in ways that the local API server does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from kaito.runtime import Client, Rest, RuntimeMetrics
from kaito.runtime.errors import NotAcceptable
from kaito.runtime.informer import Informer, Scope
from kaito.runtime.reflector import ReflectorMachine
from kaito.runtime.resource import CONFIG_MAPS, PODS
from kaito.runtime.tasks import cancel_and_wait
from support.controlplane import ControlPlane
from support.proxy import Proxy
from support.scripted import Respond, Scripted, event, listing, pod, scripted, status, stream
from support.waiting import eventually


@asynccontextmanager
async def following(respond: Respond) -> AsyncIterator[tuple[Scripted, Informer[Any]]]:
    """An informer of pods that lists and watches a scripted server."""
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        informer = Informer(
            rest, PODS, Scope("n"), metrics=RuntimeMetrics(), machine=ReflectorMachine(streaming=False, rng=lambda: 0.0)
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


async def test_garbage_on_the_stream_is_survived_by_a_new_list() -> None:
    lists = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal lists
        if "watch" in request.query:
            if lists > 1:
                return await stream(request)
            return await stream(
                request, event("ADDED", pod("a", 5)), b"<html>bad gateway</html>\n", event("ADDED", pod("never", 6))
            )
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
            other = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"o-{namespace}", "namespace": "default"},
            }
            await client.create(CONFIG_MAPS, other)
            await eventually(lambda: informer.status().resource_version > before)  # a bookmark has been seen
            proxy.freeze()
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "missed", "namespace": namespace}}
            await client.create(CONFIG_MAPS, body)
            accepted = proxy.accepted
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
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}}
        async with asyncio.timeout(5):
            await Client(rest).create(CONFIG_MAPS, body)
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
