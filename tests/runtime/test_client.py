"""Reads and writes against an API server."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    AlreadyExists,
    Client,
    Conflict,
    FencedError,
    InternalError,
    Invalid,
    LabelSelector,
    Manifest,
    NotFound,
    ObjectMeta,
    OutcomeUnknown,
    PatchType,
    Rest,
    RuntimeMetrics,
    ServiceUnavailable,
    TooManyRequests,
    TransportError,
    add_finalizer,
    owner_reference,
    remove_finalizer,
    retry_on_conflict,
)
from kaito.runtime.transport.client import meta_of
from support.front import Front
from support.scripted import scripted


def config_map(name: str, namespace: str, data: dict[str, str] | None = None, **metadata: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": data or {},
    }


def meta(obj: Manifest) -> ObjectMeta:
    return meta_of(CONFIG_MAPS, obj)


async def test_an_object_from_creation_to_deletion(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map("a", namespace, {"x": "1"}))
    assert created["metadata"]["uid"]
    assert (await client.get(CONFIG_MAPS, "a", namespace))["data"] == {"x": "1"}
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAPS, config_map("a", namespace))
    created["data"]["x"] = "2"
    updated = await client.update(CONFIG_MAPS, created)
    assert updated["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, created)
    patched = await client.patch(CONFIG_MAPS, "a", {"data": {"x": None, "y": "3"}}, namespace=namespace)
    assert patched["data"] == {"y": "3"}
    with pytest.raises(Conflict):
        await client.delete(CONFIG_MAPS, "a", namespace, uid="another")
    await client.delete(CONFIG_MAPS, "a", namespace, uid=created["metadata"]["uid"])
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", namespace)
    with pytest.raises(NotFound):
        await client.delete(CONFIG_MAPS, "a", namespace)


async def test_arguments_are_never_changed(client: Client, namespace: str) -> None:
    body = config_map("a", namespace)
    before = config_map("a", namespace)
    await client.create(CONFIG_MAPS, body)
    assert body == before


async def test_lists_are_read_in_pages_and_selected(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.runtime.transport.pager.list_pages.__kwdefaults__", {**_page_defaults(), "limit": 3})
    for number in range(8):
        await client.create(CONFIG_MAPS, config_map(f"c{number}", namespace, labels={"parity": str(number % 2)}))
    everything = await client.list(CONFIG_MAPS, namespace)
    assert {obj["metadata"]["name"] for obj in everything} >= {f"c{number}" for number in range(8)}
    assert all(obj["kind"] == "ConfigMap" for obj in everything)
    odd = await client.list(CONFIG_MAPS, namespace, labels={"parity": "1"})
    assert sorted(obj["metadata"]["name"] for obj in odd) == ["c1", "c3", "c5", "c7"]
    selected = await client.list(CONFIG_MAPS, namespace, labels=LabelSelector.parse("parity notin (1),parity"))
    assert len(selected) == 4


def _page_defaults() -> dict[str, Any]:
    from kaito.runtime.transport.pager import list_pages

    return dict(list_pages.__kwdefaults__)


async def test_an_invalid_object_names_the_field(client: Client, namespace: str) -> None:
    bad = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": namespace},
        "spec": {
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        },
    }
    with pytest.raises(Invalid, match=r"spec\.selector"):
        await client.create(DEPLOYMENTS, bad)


async def test_finalizers_come_and_go_alone(client: Client, namespace: str) -> None:
    first = await client.create(CONFIG_MAPS, config_map("a", namespace, finalizers=["example.com/other"]))
    second = await add_finalizer(client, CONFIG_MAPS, meta(first), "kaito.sh/test")
    assert second is not None
    assert meta(second).finalizers == ("example.com/other", "kaito.sh/test")
    assert await add_finalizer(client, CONFIG_MAPS, meta(second), "kaito.sh/test") is None
    with pytest.raises(Conflict):
        await remove_finalizer(
            client, CONFIG_MAPS, ObjectMeta(**{**_fields(meta(second)), "resource_version": "1"}), "kaito.sh/test"
        )
    third = await remove_finalizer(client, CONFIG_MAPS, meta(second), "kaito.sh/test")
    assert third is not None
    assert meta(third).finalizers == ("example.com/other",)
    await client.delete(CONFIG_MAPS, "a", namespace)
    waiting = await client.get(CONFIG_MAPS, "a", namespace)
    assert meta(waiting).deleting
    await remove_finalizer(client, CONFIG_MAPS, meta(waiting), "example.com/other")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", namespace)


def _fields(value: ObjectMeta) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


async def test_an_owner_reference_names_the_owner(client: Client, namespace: str) -> None:
    owner = meta(await client.create(CONFIG_MAPS, config_map("a", namespace)))
    reference = owner_reference(CONFIG_MAPS, owner)
    owned = await client.create(CONFIG_MAPS, config_map("b", namespace, ownerReferences=[reference]))
    found = meta(owned).controller_owner
    assert found is not None
    assert (found.kind, found.name, found.uid) == ("ConfigMap", "a", owner.uid)


async def test_a_conflict_is_tried_again_a_few_times() -> None:
    calls = 0

    async def attempt() -> str:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise Conflict("raced")
        return "done"

    assert await retry_on_conflict(attempt) == "done"

    async def hopeless() -> str:
        nonlocal calls
        calls += 1
        raise Conflict("raced")

    calls = 0
    with pytest.raises(Conflict):
        await retry_on_conflict(hopeless)
    assert calls == 5


async def test_a_fenced_client_sends_nothing(rest: Rest, client: Client, namespace: str) -> None:
    def fence() -> None:
        raise FencedError("not the leader")

    fenced = Client(rest, fence=fence)
    body = config_map("a", namespace)
    for write in (
        fenced.create(CONFIG_MAPS, body),
        fenced.update(CONFIG_MAPS, body),
        fenced.update_status(CONFIG_MAPS, body),
        fenced.patch(CONFIG_MAPS, "a", {}, namespace=namespace),
        fenced.delete(CONFIG_MAPS, "a", namespace),
        fenced.post(CONFIG_MAPS, "a", "status", {}, namespace),
    ):
        with pytest.raises(FencedError):
            await write
    with pytest.raises(NotFound):
        await fenced.get(CONFIG_MAPS, "a", namespace)


@pytest.mark.parametrize(
    "error", [TooManyRequests("slow", retry_after=0.0), ServiceUnavailable("down", retry_after=0.0)]
)
async def test_what_asks_for_a_retry_gets_one(front: Front, client: Client, namespace: str, error: Exception) -> None:
    fault = front.faults.add(Fault("create", "configmaps", error=error, count=2))
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    assert fault.hits == 2


async def test_what_does_not_ask_for_a_retry_gets_none(front: Front, client: Client, namespace: str) -> None:
    fault = front.faults.add(Fault("create", "configmaps", error=InternalError("boom"), count=5))
    with pytest.raises(InternalError, match="boom"):
        await client.create(CONFIG_MAPS, config_map("a", namespace))
    assert fault.hits == 1


async def test_a_read_whose_connection_breaks_is_sent_again_once(front: Front, client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map("a", namespace))
    fault = front.faults.add(Fault("get", "configmaps", drop="before", count=1))
    assert await client.get(CONFIG_MAPS, "a", namespace)
    assert fault.hits == 1
    front.faults.add(Fault("get", "configmaps", drop="before", count=2))
    with pytest.raises(TransportError):
        await client.get(CONFIG_MAPS, "a", namespace)


@pytest.mark.parametrize("verb", ["create", "update", "patch", "delete"])
async def test_a_write_whose_connection_breaks_is_sent_once_and_its_outcome_is_unknown(
    front: Front, client: Client, namespace: str, verb: str
) -> None:
    existing = await client.create(CONFIG_MAPS, config_map("a", namespace))
    fault = front.faults.add(Fault(verb, "configmaps", drop="after", count=5))
    patch = [{"op": "add", "path": "/data", "value": {"x": "1"}}]
    writes = {
        "create": lambda: client.create(CONFIG_MAPS, config_map("b", namespace)),
        "update": lambda: client.update(CONFIG_MAPS, existing),
        "patch": lambda: client.patch(CONFIG_MAPS, "a", patch, namespace=namespace, kind=PatchType.JSON),
        "delete": lambda: client.delete(CONFIG_MAPS, "a", namespace),
    }
    with pytest.raises(OutcomeUnknown):
        await writes[verb]()
    assert fault.hits == 1
    front.faults.clear()


async def test_a_server_that_is_not_there_is_a_transport_error(client: Client, front: Front) -> None:
    await front.stop()
    with pytest.raises(TransportError):
        await client.get(CONFIG_MAPS, "a", "default")
    with pytest.raises(TransportError) as caught:
        await client.create(CONFIG_MAPS, config_map("a", "default"))
    assert not isinstance(caught.value, OutcomeUnknown), "a refused connection has sent nothing"


async def test_a_finalizer_that_is_there_twice_goes_as_one() -> None:
    """Pitfall 81."""
    patches: list[Any] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        patches.append(await request.json())
        return web.json_response(config_map("a", "n"))

    async with scripted(respond) as script:
        rest = Rest(script.config, RuntimeMetrics())
        held = ObjectMeta(name="a", namespace="n", uid="u", resource_version="5", finalizers=("x", "ours", "y", "ours"))
        assert await remove_finalizer(Client(rest), CONFIG_MAPS, held, "ours") is not None
        await rest.aclose()
    ((same_uid, same_version, change),) = patches
    assert (same_uid["op"], same_version["op"]) == ("test", "test")
    assert (same_uid["value"], same_version["value"], change["value"]) == ("u", "5", ["x", "y"])
