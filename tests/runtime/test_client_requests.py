"""What a client can ask for beyond single reads and writes, and what the cache learns of an answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from kaito.runtime import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    Cache,
    Client,
    Conflict,
    DecodeError,
    Expired,
    Invalid,
    Key,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    ObjectMeta,
    PatchType,
    Resource,
    Rest,
    RuntimeMetrics,
    TaskScope,
    manifest_resource,
    model_resource,
    remove_finalizer,
    retry_on_conflict,
)
from support.controlplane import ControlPlane
from support.front import Front
from support.scripted import event, listing, pod, scripted, stream
from support.waiting import eventually


def config_map(name: str, namespace: str, data: dict[str, str] | None = None, **metadata: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": data or {},
    }


def deployment(name: str, namespace: str) -> Manifest:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }


class Told:
    """What the cache would learn."""

    def __init__(self) -> None:
        self.written_: list[Manifest] = []
        self.deleted_: list[Key] = []

    def written(self, resource: Resource[Any], data: bytes) -> None:
        self.written_.append(json.loads(data))

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None:
        self.deleted_.append(key)


# What the cache learns


async def test_a_cached_resource_is_scaled_by_its_subresource(rest: Rest, client: Client, namespace: str) -> None:
    """The answer is of another kind: it is the caller's, and nothing of the cache's."""
    cache = Cache(rest, RuntimeMetrics())
    informers = TaskScope(lambda name, error: None)
    deployments = cache.lister(DEPLOYMENTS)
    await client.create(DEPLOYMENTS, deployment("d", namespace))
    cache.start(informers)
    try:
        await cache.wait_synced()
        typed = model_resource(Deployment, "apps", "v1", "deployments")
        for number, resource in enumerate((DEPLOYMENTS, typed), 2):
            writer = Client(rest, observer=cache)
            scale = await writer.patch(
                resource, "d", {"spec": {"replicas": number}}, namespace=namespace, subresource="scale"
            )
            assert isinstance(scale, dict)
            assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", number)
        await eventually(lambda: (deployments.get("d", namespace) or {})["spec"]["replicas"] == 3)
    finally:
        await informers.aclose()


async def test_the_cache_learns_of_a_write_whose_answer_the_caller_cannot_read() -> None:
    answer = {"kind": "X", "apiVersion": "g/v1", "metadata": {"name": "a", "namespace": "n", "uid": "u"}, "new": 1}

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(answer)

    def picky(data: bytes) -> Manifest:
        raise ValueError("phase")

    xs = Resource("g", "v1", "X", "xs", True, picky, lambda obj: json.dumps(obj).encode())
    told = Told()
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        client = Client(rest, observer=told)
        body = {"metadata": {"name": "a", "namespace": "n"}}
        writes = [
            lambda: client.create(xs, body),
            lambda: client.update(xs, body),
            lambda: client.update_status(xs, body),
            lambda: client.patch(xs, "a", {}, namespace="n"),
            lambda: client.server_side_apply(xs, body),
        ]
        for number, write in enumerate(writes, 1):
            with pytest.raises(DecodeError):
                await write()
            assert told.written_ == [answer] * number
        await rest.aclose()


async def test_a_dry_run_is_checked_answered_and_neither_kept_nor_learnt(
    rest: Rest, client: Client, namespace: str
) -> None:
    told = Told()
    kept = await client.create(CONFIG_MAPS, config_map("kept", namespace, {"x": "1"}))
    dry = Client(rest, observer=told).with_options(dry_run=True)
    assert (await dry.create(CONFIG_MAPS, config_map("a", namespace)))["metadata"]["uid"]
    assert (await dry.update(CONFIG_MAPS, {**kept, "data": {"x": "2"}}))["data"] == {"x": "2"}
    assert (await dry.patch(CONFIG_MAPS, "kept", {"data": {"x": "3"}}, namespace=namespace))["data"] == {"x": "3"}
    await dry.delete(CONFIG_MAPS, "kept", namespace)
    await dry.delete_collection(CONFIG_MAPS, namespace)
    with pytest.raises(Invalid):
        await dry.create(CONFIG_MAPS, config_map("Not_A_Name", namespace))
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", namespace)
    assert await client.get(CONFIG_MAPS, "kept", namespace) == kept
    assert told.written_ == told.deleted_ == []
    await dry.with_options(dry_run=False).delete(CONFIG_MAPS, "kept", namespace)
    assert told.deleted_ == [Key(namespace, "kept")]


# Options


async def test_a_client_says_who_writes_and_how_strictly_fields_are_judged() -> None:
    queries: list[dict[str, str]] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        queries.append(dict(request.query))
        return web.json_response(pod("a", 1))

    async with scripted(respond) as script:
        manager = Manager(script.config, ManagerOptions(field_manager="mine"))
        strict = manager.client.with_options(field_validation="Strict")
        for client in (manager.unfenced_client, strict, strict.with_options(field_manager="other")):
            await client.create(PODS, pod("a", 1))
        await strict.server_side_apply(PODS, pod("a", 1), force=True)
        await strict.server_side_apply(PODS, pod("a", 1), field_manager="one-off")
        await manager.rest.aclose()
    assert queries == [
        {"fieldManager": "mine"},
        {"fieldManager": "mine", "fieldValidation": "Strict"},
        {"fieldManager": "other", "fieldValidation": "Strict"},
        {"fieldManager": "mine", "fieldValidation": "Strict", "force": "true"},
        {"fieldManager": "one-off", "fieldValidation": "Strict", "force": "false"},
    ]


# Many objects


async def test_a_collection_is_deleted_by_labels_and_in_one_namespace(client: Client, namespace: str) -> None:
    for number in range(4):
        labels = {"half": str(number % 2)}
        await client.create(CONFIG_MAPS, config_map(f"c{number}", namespace, labels=labels))
    await client.delete_collection(CONFIG_MAPS, namespace, labels={"half": "1"})
    left = [obj["metadata"]["name"] for obj in await client.list(CONFIG_MAPS, namespace, labels={"half": "1"})]
    assert left == []
    assert len(await client.list(CONFIG_MAPS, namespace, labels={"half": "0"})) == 2
    with pytest.raises(ValueError, match="one namespace at a time"):
        await client.delete_collection(CONFIG_MAPS)


async def test_pages_hold_no_more_than_they_say_and_each_object_comes_once(
    client: Client, front: Front, namespace: str
) -> None:
    """Also where the server forgets the version of the list in between."""
    for number in range(7):
        await client.create(CONFIG_MAPS, config_map(f"c{number}", namespace, labels={"a": "b"}))
    names, sizes = [], []
    async with aclosing(client.pages(CONFIG_MAPS, namespace, labels={"a": "b"}, size=3)) as pages:
        async for page in pages:
            sizes.append(len(page))
            names += [obj["metadata"]["name"] for obj in page]
            if len(sizes) == 1:
                await front.compact()
    assert sorted(names) == [f"c{number}" for number in range(7)]
    assert sizes[0] == 3


# Following


async def test_a_watch_tells_what_is_there_and_what_happens(client: Client, namespace: str) -> None:
    first = await client.create(CONFIG_MAPS, config_map("a", namespace, labels={"x": "y"}))
    seen: list[tuple[str, str]] = []
    async with aclosing(client.watch(CONFIG_MAPS, namespace, labels={"x": "y"})) as events:
        async for kind, obj in events:
            seen.append((kind, obj["metadata"]["name"]))
            if len(seen) == 1:
                await client.patch(CONFIG_MAPS, "a", {"data": {"n": "1"}}, namespace=namespace)
                await client.create(CONFIG_MAPS, config_map("other", namespace))
                await client.delete(CONFIG_MAPS, "a", namespace)
            if len(seen) == 3:
                break
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    version = first["metadata"]["resourceVersion"]
    async with aclosing(client.watch(CONFIG_MAPS, namespace, labels={"x": "y"}, resource_version=version)) as events:
        assert (await anext(events)).type == "MODIFIED"


async def test_a_watch_of_a_version_that_is_gone_says_so() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
        return await stream(request, event("BOOKMARK", pod("", 5)), event("ERROR", gone))

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        with pytest.raises(Expired):
            async for _ in Client(rest).watch(PODS, "n", resource_version="1"):
                pass
        await rest.aclose()


async def test_waiting_ends_with_the_state_that_was_waited_for(client: Client, namespace: str) -> None:
    def ready(obj: Manifest | None) -> bool:
        return obj is not None and obj["data"].get("ready") == "yes"

    waiting = asyncio.create_task(client.wait_for(CONFIG_MAPS, "a", ready, namespace, timeout=20.0))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    await client.create(CONFIG_MAPS, config_map("b", namespace, {"ready": "yes"}))
    await client.patch(CONFIG_MAPS, "a", {"data": {"ready": "yes"}}, namespace=namespace)
    found = await waiting
    assert found is not None
    assert found["metadata"]["name"] == "a"
    gone = asyncio.create_task(client.wait_for(CONFIG_MAPS, "a", lambda obj: obj is None, namespace, timeout=20.0))
    await client.delete(CONFIG_MAPS, "a", namespace)
    assert await gone is None
    with pytest.raises(TimeoutError):
        await client.wait_for(CONFIG_MAPS, "a", ready, namespace, timeout=0.05)


@pytest.mark.looptime
async def test_waiting_survives_what_breaks_on_the_way() -> None:
    asked: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        watching = "watch" in request.query
        asked.append("watch" if watching else "list")
        if not watching:
            return listing() if len(asked) < 6 else listing(pod("a", 7), version=7)
        if len(asked) == 2:
            assert request.transport is not None
            request.transport.abort()
        return await stream(request, hold=False)

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        found = await Client(rest).wait_for(PODS, "a", lambda obj: obj, "n", timeout=3600.0)
        await rest.aclose()
    assert found is not None
    assert asked[0] == "list"
    assert asked.count("watch") >= 2


# Refusals


VALIDATION = Invalid(
    'Pod "a" is invalid: spec: forbidden',
    details={"name": "a", "kind": "Pod", "causes": [{"reason": "FieldValueForbidden", "field": "spec"}]},
)
TEST_FAILED = Invalid("the server rejected our request due to an error in our request")
"""kube-apiserver's answer to a JSON patch whose ``test`` fails."""


@pytest.mark.parametrize(
    ("answer", "kind", "raised"),
    [
        (TEST_FAILED, PatchType.JSON, Conflict),
        (VALIDATION, PatchType.JSON, Invalid),
        (TEST_FAILED, PatchType.MERGE, Invalid),
        (VALIDATION, PatchType.MERGE, Invalid),
    ],
)
async def test_only_a_test_that_failed_is_a_conflict(answer: Invalid, kind: PatchType, raised: type[Exception]) -> None:
    requests: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        requests.append(request.method)
        return web.json_response(answer.status(), status=422)

    patch: Any = {"spec": {}}
    if kind is PatchType.JSON:
        patch = [{"op": "test", "path": "/metadata/uid", "value": "u"}, {"op": "remove", "path": "/spec"}]
    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        client = Client(rest)
        with pytest.raises(raised) as caught:
            await client.patch(PODS, "a", patch, namespace="n", kind=kind)
        assert type(caught.value) is raised
        requests.clear()
        if kind is PatchType.JSON:
            held = ObjectMeta(name="a", namespace="n", uid="u", resource_version="1", finalizers=("f",))
            with pytest.raises(raised):
                await retry_on_conflict(lambda: remove_finalizer(client, PODS, held, "f"))
            assert len(requests) == (5 if raised is Conflict else 1), "what is invalid stays so"
        await rest.aclose()


async def test_a_test_that_fails_on_the_server_is_a_conflict_and_an_operation_that_does_not_fit_is_not(
    client: Client, control_plane: ControlPlane, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    with pytest.raises(Conflict):
        await client.patch(
            CONFIG_MAPS,
            "a",
            [{"op": "test", "path": "/metadata/uid", "value": "another"}],
            namespace=namespace,
            kind=PatchType.JSON,
        )
    with pytest.raises(Invalid):
        await client.patch(
            CONFIG_MAPS, "a", [{"op": "remove", "path": "/nothing"}], namespace=namespace, kind=PatchType.JSON
        )


# Models


class Meta(BaseModel):
    name: str
    namespace: str = ""
    resource_version: str = Field("", alias="resourceVersion")
    model_config = ConfigDict(extra="allow", populate_by_name=True)


class Deployment(BaseModel):
    api_version: str = Field("apps/v1", alias="apiVersion")
    kind: str = "Deployment"
    metadata: Meta
    spec: dict[str, Any]
    model_config = ConfigDict(extra="allow", populate_by_name=True)


async def test_a_pydantic_model_is_read_and_written_as_it_is(client: Client, namespace: str) -> None:
    deployments = model_resource(Deployment, "apps", "v1", "deployments")
    assert (deployments.kind, deployments) == ("Deployment", DEPLOYMENTS)
    created = await client.create(deployments, Deployment.model_validate(deployment("d", namespace)))
    assert created.metadata.resource_version
    created.spec["replicas"] = 5
    updated = await client.update(deployments, created)
    assert updated.spec["replicas"] == 5
    stored = await client.get(DEPLOYMENTS, "d", namespace)
    assert stored["spec"]["template"]["spec"]["containers"][0]["name"] == "c"
    broken = manifest_resource("apps", "v1", "Deployment", "deployments")
    assert broken == deployments


def test_the_runtime_needs_no_pydantic_and_no_prometheus_client_before_a_scrape() -> None:
    code = """if True:
        import sys
        from kaito.runtime import Client, Manager, ManagerOptions, RestConfig, RuntimeMetrics, model_resource
        Manager(RestConfig("https://127.0.0.1:1"), ManagerOptions())
        assert not {"pydantic", "prometheus_client"} & set(sys.modules)
        RuntimeMetrics().registry
        assert "prometheus_client" in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
