"""Reads of the cache: by index, as whatever type, in whatever scope, and what becomes of what cannot be read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from kaito.runtime import (
    CONFIG_MAPS,
    NODES,
    PODS,
    SECRETS,
    Cache,
    ConfigError,
    DropFields,
    Event,
    Key,
    LabelSelector,
    Manifest,
    NotCached,
    Resource,
    Rest,
    RestConfig,
    RuntimeMetrics,
    Stored,
    TaskScope,
    metadata_resource,
)
from support.scripted import Scripted, listing, scripted, status, stream
from support.waiting import eventually

NOWHERE = RestConfig(server="http://127.0.0.1:1")


class Pod(msgspec.Struct):
    kind: str
    spec: dict[str, Any] = {}


STRUCTS: Resource[Pod] = Resource("", "v1", "Pod", "pods", True, msgspec.json.Decoder(Pod).decode, msgspec.json.encode)


def pod(name: str, version: int, namespace: str = "n", owner: str = "", **labels: str) -> Manifest:
    metadata: Manifest = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "resourceVersion": str(version),
        "labels": labels,
    }
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "X", "name": owner, "uid": owner}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": name}}


@asynccontextmanager
async def caching(*pods: Manifest) -> AsyncIterator[tuple[Cache, Scripted]]:
    """A cache of a server that holds these pods, and nothing of any other kind."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            return status(400, "BadRequest", "not here")
        if "watch" in request.query:
            return await stream(request)
        parts = request.path.split("/")
        held = [item for item in pods if parts[-1] == "pods"]
        if "namespaces" in parts:
            held = [item for item in held if item["metadata"]["namespace"] == parts[parts.index("namespaces") + 1]]
        return listing(*held, version=1000)

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        cache = Cache(rest, RuntimeMetrics())
        tasks = TaskScope(lambda name, error: None)
        try:
            yield cache, script
        finally:
            await tasks.aclose()
            await rest.aclose()


@asynccontextmanager
async def running(cache: Cache) -> AsyncIterator[None]:
    tasks = TaskScope(lambda name, error: None)
    cache.start(tasks)
    try:
        await cache.wait_synced(10.0)
        yield
    finally:
        await tasks.aclose()


def names(found: Iterable[Stored[Any]]) -> list[str]:
    return sorted(stored.key.name for stored in found)


async def test_reads_by_label_owner_and_function_follow_every_change() -> None:
    async with caching(
        pod("a", 1, app="x", owner="one"), pod("b", 2, app="y", owner="one"), pod("c", 3, "m", app="x", owner="two")
    ) as (cache, _):
        pods = cache.lister(PODS)
        cache.add_index(PODS, "node", lambda stored: [stored.decode()["spec"]["nodeName"]])
        async with running(cache):
            assert names(pods.by_label("app", "x")) == ["a", "c"]
            assert names(pods.by_label("app", "x", "m")) == ["c"]
            assert names(pods.by_owner("one")) == ["a", "b"]
            assert names(pods.by_index("node", "b")) == ["b"]
            assert pods.tally("node")["b"] == 1
            cache.written(PODS, json.dumps(pod("b", 2000, app="x", owner="two")).encode())
            assert names(pods.by_label("app", "x")) == ["a", "b", "c"]
            assert names(pods.by_label("app", "y")) == []
            assert names(pods.by_owner("one")) == ["a"]
            assert names(pods.by_owner("two", "n")) == ["b"]
            cache.deleted(PODS, Key("n", "a"), "uid-n-a")
            assert names(pods.by_label("app", "x")) == ["b", "c"]
            assert pods.by_owner("one") == []
            with pytest.raises(KeyError):
                pods.by_index("unknown", "x")


@pytest.mark.parametrize(
    "selector",
    ["app=x", "app in (x,y)", "app in (x,y),tier!=back", "tier", "app!=x", "app=nowhere", "tier=back,app=x"],
)
async def test_a_list_by_labels_finds_the_same_with_an_index_as_by_looking_at_all(selector: str) -> None:
    tiers = [{}, {"tier": "back"}, {"tier": "front"}]
    held = [
        pod(f"{app}{number}", 1 + 10 * number + ord(app), app=app, **tier)
        for app in "xyz"
        for number, tier in enumerate(tiers)
    ]
    async with caching(*held) as (cache, _):
        pods = cache.lister(PODS)
        async with running(cache):
            parsed = LabelSelector.parse(selector)
            expected = names(stored for stored in pods.stored_list() if parsed.matches(stored.labels))
            for namespace, wanted in (("", expected), ("n", expected), ("elsewhere", [])):
                assert names(pods.stored_list(namespace, labels=parsed)) == wanted


async def test_users_selectors_do_not_make_indexes_without_end() -> None:
    async with caching(pod("a", 1, app="x")) as (cache, _):
        pods = cache.lister(PODS)
        async with running(cache):
            for number in range(1000):
                pods.stored_list(labels={f"label-{number}": "x"})
            (store,) = (informer.store for informer in cache.informers(PODS))
            assert len(store.indexes) <= 20
            assert names(pods.stored_list(labels={"app": "x"})) == ["a"]


async def test_one_watch_serves_every_type_and_index_of_a_resource() -> None:
    async with caching(pod("a", 1, app="x")) as (cache, script):
        metadata = cache.lister(metadata_resource(PODS))  # declared first: whole objects serve it as well
        plain, structs = cache.lister(PODS), cache.lister(STRUCTS)
        cache.add_index(STRUCTS, "node", lambda stored: [stored.decode().spec["nodeName"]])
        heard: dict[str, list[Any]] = {"plain": [], "structs": []}
        cache.informer(PODS).add_handler(lambda event: heard["plain"].append(event.current.decode()), PODS)
        cache.informer(STRUCTS).add_handler(lambda event: heard["structs"].append(event.current.decode()), STRUCTS)
        async with running(cache):
            assert isinstance(plain.get("a", "n"), dict)
            assert structs.get("a", "n") == Pod("Pod", {"nodeName": "a"})
            assert [stored.decode() for stored in structs.by_index("node", "a")] == [Pod("Pod", {"nodeName": "a"})]
            assert [stored.decode()["kind"] for stored in plain.by_index("node", "a")] == ["Pod"]
            found = metadata.get("a", "n")
            assert found is not None
            assert found.labels == {"app": "x"}
            assert heard == {"plain": [plain.get("a", "n")], "structs": [Pod("Pod", {"nodeName": "a"})]}
            await eventually(lambda: script.count(watch=True) >= 2)
        watches = [request for request in script.requests if "watch" in request.query]
        assert len({request.query_string for request in watches if "sendInitialEvents" in request.query}) == 1
        assert script.count(watch=False) == 1, "one list"


async def test_everybody_who_looks_at_one_event_shares_its_decoding() -> None:
    decoded: list[bytes] = []

    def decode(data: bytes) -> Manifest:
        decoded.append(data)
        return PODS.decode(data)

    counting = Resource("", "v1", "Pod", "pods", True, decode, PODS.encode)
    rest = Rest(NOWHERE, RuntimeMetrics())
    cache = Cache(rest, RuntimeMetrics())
    seen: list[Any] = []
    for _ in range(3):
        cache.informer(counting).add_handler(lambda event: seen.append(event.current.peek()), counting)
    cache.written(counting, json.dumps(pod("a", 1)).encode())
    await rest.aclose()
    assert len(decoded) == 1
    assert seen[0] is seen[1] is seen[2]
    (stored,) = cache.informer(counting).store.snapshot()
    assert stored.peek() is not seen[0], "nothing decoded is kept once the event is over"


async def test_what_nobody_reads_is_not_kept() -> None:
    rest = Rest(NOWHERE, RuntimeMetrics())
    cache = Cache(rest, RuntimeMetrics())
    for _ in range(2):
        cache.transform(NODES, DropFields("status.images", "metadata.annotations"))
    images = [{"names": ["x" * 100]}] * 50
    metadata = {"name": "a", "uid": "u", "resourceVersion": "5", "annotations": {"images": "mine"}}
    node = {"kind": "Node", "apiVersion": "v1", "metadata": metadata, "status": {"images": images, "phase": "x"}}
    cache.informer(NODES)
    cache.written(NODES, json.dumps(node).encode())
    cache.written(NODES, json.dumps({**node, "metadata": {**metadata, "name": "b"}, "status": None}).encode())
    kept, other = (stored.decode() for stored in cache.informer(NODES).store.snapshot())
    assert kept["status"] == {"phase": "x"}
    assert kept["metadata"] == {"name": "a", "uid": "u", "resourceVersion": "5"}
    assert other["status"] is None
    with pytest.raises(ConfigError, match="already has the transform"):
        cache.transform(NODES, DropFields("spec"))
    cache.informer(PODS)
    with pytest.raises(ConfigError, match="comes too late"):
        cache.transform(PODS, DropFields("spec"))
    with pytest.raises(ValueError, match="not the path of a field"):
        DropFields("status..images")
    await rest.aclose()


async def test_an_object_that_does_not_decode_keeps_no_other_from_being_read() -> None:
    class Strict(msgspec.Struct):
        spec: dict[str, str]

    strict: Resource[Strict] = Resource(
        "", "v1", "Pod", "pods", True, msgspec.json.Decoder(Strict).decode, msgspec.json.encode
    )
    bad = pod("bad", 2) | {"spec": "from another version"}
    async with caching(pod("good", 1), bad) as (cache, _):
        pods = cache.lister(strict)
        cache.add_index(strict, "node", lambda stored: [stored.decode().spec["nodeName"]])
        async with running(cache):
            assert [item.spec for item in pods.list()] == [{"nodeName": "good"}]
            assert names(pods.by_index("node", "good")) == ["good"]
            assert names(pods.stored_list()) == ["bad", "good"], "that it is there is known"


async def test_a_cache_of_several_namespaces_reads_as_one() -> None:
    """Pitfall 39."""
    held = [pod("a", 1, "one", app="x"), pod("a", 2, "two", app="x"), pod("a", 3, "three", app="x")]
    async with caching(*held) as (everything, script):
        cache = Cache(everything._rest, RuntimeMetrics(), namespaces=["one", "two"])
        pods, nodes = cache.lister(PODS), cache.lister(NODES)
        only = cache.lister(PODS, namespaces=["three"])
        async with running(cache):
            assert {stored.key.namespace for stored in pods.stored_list()} == {"one", "two"}
            assert {stored.key.namespace for stored in pods.by_label("app", "x")} == {"one", "two"}
            assert pods.get("a", "two") is not None
            assert pods.get("a", "three") is None
            assert only.get("a", "three") is not None
            assert len(pods) == 2
            assert nodes.list() == [], "resources without a namespace are read as ever"
            paths = {request.path for request in script.requests}
        assert "/api/v1/pods" not in paths
        with pytest.raises(ConfigError, match="list of names"):
            cache.lister(PODS, namespaces="one")


async def test_an_informer_that_is_removed_asks_nothing_more_and_says_so() -> None:
    async with caching(pod("a", 1)) as (cache, script):
        pods, secrets = cache.lister(PODS), cache.lister(SECRETS)
        told: list[Event[Any]] = []
        cache.informer(PODS).add_handler(told.append, PODS)
        async with running(cache):
            await eventually(lambda: script.count(watch=True) >= 4)
            await cache.remove(PODS)
            await cache.remove(PODS)
            with pytest.raises(NotCached):
                pods.get("a", "n")
            assert secrets.list() == []
            cache.written(PODS, json.dumps(pod("b", 2000)).encode())
            assert len(told) == 1, "what was written after the end is told to nobody"
            again = cache.lister(PODS)
            await cache.wait_synced(10.0)
            assert again.get("a", "n") is not None
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "informer Pod.v1" and task.done()]


async def test_metadata_that_is_followed_already_is_not_interrupted_by_whoever_wants_more() -> None:
    async with caching(pod("a", 1)) as (cache, _):
        metadata = cache.lister(metadata_resource(PODS))
        async with running(cache):
            whole = cache.lister(PODS)
            await cache.wait_synced(10.0)
            assert isinstance(whole.get("a", "n"), dict)
            assert metadata.get("a", "n") is not None


async def test_scoped_indexes_belong_to_their_scope() -> None:
    async with caching(pod("a", 1, "one"), pod("b", 2, "two")) as (cache, script):
        cache.add_index(PODS, "node", lambda stored: [stored.decode()["spec"]["nodeName"]], namespaces=["one"])
        one, everything = cache.lister(PODS, namespaces=["one"]), cache.lister(CONFIG_MAPS)
        async with running(cache):
            assert names(one.by_index("node", "a")) == ["a"]
            assert one.by_index("node", "b") == []
            assert everything.list() == []
        assert {request.path for request in script.requests} == {"/api/v1/namespaces/one/pods", "/api/v1/configmaps"}
