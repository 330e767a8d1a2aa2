"""Create or update, create or patch, server-side apply: what is written, and above all what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    SERVICES,
    Client,
    Conflict,
    Manifest,
    NotFound,
    OperationResult,
    Resource,
    Rest,
    RestConfig,
    RuntimeMetrics,
    create_or_patch,
    create_or_update,
)
from kaito.runtime.objects.semantics import equal, merge_patch
from kaito.runtime.serving.health import HttpServer
from support.front import Front


def config_map(namespace: str, **data: str) -> Manifest:
    obj: Manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": namespace}}
    return obj | {"data": data} if data else obj


def deployment(namespace: str, cpu: Any = "1") -> Manifest:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    labels = {"app": "a"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def setting(**data: str) -> Callable[[Manifest], Manifest]:
    return lambda obj: obj | {"data": (obj.get("data") or {}) | data}


def unchanged(obj: Manifest) -> Manifest:
    return obj


BOTH = pytest.mark.parametrize("write", [create_or_update, create_or_patch])


@BOTH
async def test_what_is_missing_is_created_and_then_updated(client: Client, namespace: str, write: Any) -> None:
    created, result = await write(client, CONFIG_MAPS, config_map(namespace), setting(a="1"))
    assert result is OperationResult.CREATED
    assert created["data"] == {"a": "1"}
    updated, result = await write(client, CONFIG_MAPS, config_map(namespace), setting(b="2"))
    assert result is OperationResult.UPDATED
    assert updated["data"] == {"a": "1", "b": "2"}
    assert await client.get(CONFIG_MAPS, "c", namespace) == updated
    same, result = await write(client, CONFIG_MAPS, config_map(namespace), setting(b="2"))
    assert result is OperationResult.UNCHANGED
    assert same == updated


@BOTH
async def test_nothing_is_written_where_the_meaning_is_the_same(
    client: Client, front: Front, namespace: str, write: Any
) -> None:
    """Pitfall 80."""
    before = await client.create(DEPLOYMENTS, deployment(namespace))
    faults = [front.faults.add(Fault(verb, count=-1)) for verb in ("update", "patch")]

    def mutate(obj: Manifest) -> Manifest:
        spec = obj["spec"]["template"]["spec"]
        spec["containers"][0]["resources"]["requests"]["cpu"] = "1000m"
        spec["containers"][0]["env"] = []
        spec["nodeSelector"] = {}
        spec["volumes"] = None
        obj["metadata"]["annotations"] = obj["metadata"].get("annotations") or {}
        return obj

    _, result = await write(client, DEPLOYMENTS, deployment(namespace), mutate)
    assert result is OperationResult.UNCHANGED
    assert [fault.hits for fault in faults] == [0, 0]
    assert (await client.get(DEPLOYMENTS, "d", namespace))["metadata"] == before["metadata"]
    changed, result = await write(
        client,
        DEPLOYMENTS,
        deployment(namespace),
        lambda obj: deployment(namespace, "1001m") | {"metadata": obj["metadata"]},
    )
    assert result is OperationResult.UPDATED
    assert changed["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1001m"}
    front.faults.clear()


@BOTH
async def test_name_and_namespace_may_not_change(client: Client, namespace: str, write: Any) -> None:
    def renamed(obj: Manifest) -> Manifest:
        return obj | {"metadata": obj["metadata"] | {"name": "other"}}

    def moved(obj: Manifest) -> Manifest:
        return obj | {"metadata": obj["metadata"] | {"namespace": "other"}}

    for _ in range(2):
        for mutate in (renamed, moved):
            with pytest.raises(ValueError, match="name and namespace may not change"):
                await write(client, CONFIG_MAPS, config_map(namespace), mutate)
        await write(client, CONFIG_MAPS, config_map(namespace), unchanged)
    with pytest.raises(ValueError, match="has no name"):
        await write(client, CONFIG_MAPS, {"metadata": {"namespace": namespace}}, unchanged)


@BOTH
async def test_what_mutate_raises_is_raised_and_nothing_written(client: Client, namespace: str, write: Any) -> None:
    def fails(obj: Manifest) -> Manifest:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await write(client, CONFIG_MAPS, config_map(namespace), fails)
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "c", namespace)


async def test_an_update_that_was_overtaken_is_a_conflict(client: Client, namespace: str) -> None:
    stored, _ = await create_or_update(client, CONFIG_MAPS, config_map(namespace), unchanged)

    def with_old_version(obj: Manifest) -> Manifest:
        obj["metadata"]["resourceVersion"] = str(int(stored["metadata"]["resourceVersion"]) - 1)
        return obj | {"data": {"a": "1"}}

    with pytest.raises(Conflict):
        await create_or_update(client, CONFIG_MAPS, config_map(namespace), with_old_version)


def ready(obj: Manifest) -> Manifest:
    return obj | {"status": (obj.get("status") or {}) | {"observedGeneration": 7, "replicas": 1}}


async def test_status_is_written_by_itself_also_for_a_new_object(client: Client, namespace: str) -> None:
    """Pitfall 80."""
    created, result = await create_or_patch(client, DEPLOYMENTS, deployment(namespace), ready)
    assert result is OperationResult.CREATED
    assert created["status"]["replicas"] == 1
    _, result = await create_or_patch(client, DEPLOYMENTS, deployment(namespace), ready)
    assert result is OperationResult.UNCHANGED

    def scaled(obj: Manifest) -> Manifest:
        obj["status"]["replicas"] = 3
        return obj

    after, result = await create_or_patch(client, DEPLOYMENTS, deployment(namespace), scaled)
    assert result is OperationResult.UPDATED_STATUS_ONLY
    assert after["status"]["replicas"] == 3

    def both(obj: Manifest) -> Manifest:
        obj["spec"]["replicas"] = 4
        obj["status"]["replicas"] = 4
        return obj

    after, result = await create_or_patch(client, DEPLOYMENTS, deployment(namespace), both)
    assert result is OperationResult.UPDATED_STATUS
    assert (after["spec"]["replicas"], after["status"]["replicas"]) == (4, 4)


async def test_an_update_leaves_status_alone(client: Client, front: Front, namespace: str) -> None:
    await client.create(DEPLOYMENTS, deployment(namespace))
    update = front.faults.add(Fault("update", count=-1))
    _, result = await create_or_update(client, DEPLOYMENTS, deployment(namespace), ready)
    assert (result, update.hits) == (OperationResult.UNCHANGED, 0)
    front.faults.clear()


class TypedSpec(msgspec.Struct, omit_defaults=True):
    selector: dict[str, str] = {}
    ports: list[dict[str, Any]] = []


class TypedService(msgspec.Struct, rename="camel", omit_defaults=True):
    api_version: str
    kind: str
    metadata: dict[str, Any]
    spec: TypedSpec


TYPED: Resource[TypedService] = Resource(
    "", "v1", "Service", "services", True, msgspec.json.Decoder(TypedService).decode, msgspec.json.encode
)


async def test_a_patch_leaves_fields_that_the_type_does_not_know(client: Client, namespace: str) -> None:
    await client.create(
        SERVICES,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s", "namespace": namespace},
            "spec": {"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "selector": {"old": "1"}},
        },
    )
    wanted = TypedService("v1", "Service", {"name": "s", "namespace": namespace}, TypedSpec())

    def mutate(obj: TypedService) -> TypedService:
        obj.spec.selector = {"new": "1"}
        return obj

    _, result = await create_or_patch(client, TYPED, wanted, mutate)
    assert result is OperationResult.UPDATED
    stored = await client.get(SERVICES, "s", namespace)
    assert stored["spec"]["sessionAffinity"] == "ClientIP"
    assert stored["spec"]["selector"] == {"new": "1"}
    assert wanted.spec.selector == {}


def container(**resources: Any) -> Manifest:
    return {"spec": {"containers": [{"name": "c", "resources": resources}]}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (container(requests={"cpu": "1"}), container(requests={"cpu": "1000m"})),
        (container(limits={"memory": "1Gi"}), container(limits={"memory": "1024Mi"})),
        (container(limits={"memory": 1000}), container(limits={"memory": "1k"})),
        (container(limits={"memory": "1e3"}), container(limits={"memory": "1000"})),
        (container(limits={"cpu": "0.5"}), container(limits={"cpu": "500m"})),
        (
            {"spec": {"volumes": [{"emptyDir": {"sizeLimit": "1Gi"}}]}},
            {"spec": {"volumes": [{"emptyDir": {"sizeLimit": "1024Mi"}}]}},
        ),
        (container(limits={}), container(limits=None)),
        ({"args": []}, {}),
        ({"args": None}, {}),
        ({"labels": {}}, {}),
        ({"labels": None}, {"labels": {}}),
        ({"a": [{"b": None}]}, {"a": [{}]}),
        ({"n": 1}, {"n": 1.0}),
    ],
)
def test_what_the_server_would_store_alike_is_equal(one: Manifest, other: Manifest) -> None:
    assert equal(one, other, kind="Pod")
    assert equal(other, one, kind="Pod")
    assert merge_patch(one, other, kind="Pod") == {}
    deployments = ({"spec": {"template": one}}, {"spec": {"template": other}})
    assert equal(*deployments, group="apps", kind="Deployment")


@pytest.mark.parametrize(
    ("group", "kind", "one", "other"),
    [
        ("", "ResourceQuota", {"spec": {"hard": {"cpu": "1"}}}, {"spec": {"hard": {"cpu": "1000m"}}}),
        ("", "LimitRange", {"spec": {"limits": [{"max": {"cpu": 1}}]}}, {"spec": {"limits": [{"max": {"cpu": "1"}}]}}),
        (
            "",
            "PersistentVolumeClaim",
            {"spec": {"resources": {"requests": {"storage": "1Gi"}}}},
            {"spec": {"resources": {"requests": {"storage": "1024Mi"}}}},
        ),
        ("", "Node", {"status": {"capacity": {"pods": 110}}}, {"status": {"capacity": {"pods": "110"}}}),
    ],
)
def test_quantities_are_where_their_kind_has_them(group: str, kind: str, one: Manifest, other: Manifest) -> None:
    assert equal(one, other, group=group, kind=kind)
    assert not equal(one, other, group="example.org", kind=kind)
    assert not equal(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"spec": {"limits": {"version": "1.10"}}}, {"spec": {"limits": {"version": "1.1"}}}),
        ({"spec": {"capacity": {"name": "1e3"}}}, {"spec": {"capacity": {"name": "1000"}}}),
        ({"spec": {"divisor": "1"}}, {"spec": {"divisor": "1.0"}}),
        ({"limits": {}}, {}),
        (
            {"spec": {"containers": [{"env": [{"name": "limits", "value": "1"}]}]}},
            {"spec": {"containers": [{"env": [{"name": "limits", "value": "1.0"}]}]}},
        ),
        ({"emptyDir": {}}, {}),
        ({"podSelector": {}}, {}),
        ({"labels": {"cpu": "1"}}, {"labels": {"cpu": "1000m"}}),
        ({"data": {"divisor": "1"}}, {"data": {"divisor": "1000m"}}),
        ({"data": {"limits": "1"}}, {"data": {"limits": "1000m"}}),
        ({"image": "1"}, {"image": "1000m"}),
        ({"replicas": 0}, {}),
        ({"flag": False}, {}),
        ({"flag": True}, {"flag": 1}),
        ({"text": ""}, {}),
        ({"port": 1}, {"port": "1"}),
        ({"args": [[]]}, {"args": []}),
        (container(limits={"cpu": "1"}), container(limits={"cpu": "1001m"})),
        (container(limits={"cpu": "1"}), container(limits={})),
        (container(limits={"cpu": "x"}), container(limits={"cpu": "y"})),
    ],
)
def test_what_means_something_else_is_not_equal(one: Manifest, other: Manifest) -> None:
    assert not equal(one, other, kind="Pod")
    assert merge_patch(one, other, kind="Pod")
    assert merge_patch(other, one, kind="Pod")


def apply_merge(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_merge(result.get(name), value)
    return result


DOCUMENTS = st.dictionaries(
    st.sampled_from(["a", "labels", "limits", "data", "spec"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "1", "1000m", "x"]),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "limits", "b"]), inner, max_size=2)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(before=DOCUMENTS, after=DOCUMENTS)
def test_a_merge_patch_brings_one_document_to_mean_the_other(before: Manifest, after: Manifest) -> None:
    assert equal(apply_merge(before, merge_patch(before, after)), after)
    assert merge_patch(before, before) == {}


@asynccontextmanager
async def patch_stub(requests: list[tuple[web.Request, bytes]]) -> AsyncIterator[Client]:
    """The local API server does not do server-side apply; this answers every patch with its body."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        requests.append((request, body))
        return web.Response(body=body, content_type="application/json")

    server = HttpServer("127.0.0.1:0", {"/{path:.*}": handle}, method="PATCH")
    await server.start()
    rest = Rest(RestConfig(server=f"http://127.0.0.1:{server.port}"), RuntimeMetrics())
    try:
        yield Client(rest)
    finally:
        await rest.aclose()
        await server.stop()


async def test_server_side_apply_sends_what_an_apply_needs() -> None:
    requests: list[tuple[web.Request, bytes]] = []
    obj = config_map("n", a="1")
    obj["metadata"]["managedFields"] = [{"manager": "x"}]
    del obj["apiVersion"], obj["kind"]
    async with patch_stub(requests) as client:
        await client.server_side_apply(CONFIG_MAPS, obj)
        await client.server_side_apply(CONFIG_MAPS, obj, field_manager="me", force=True, subresource="status")
    (first, body), (second, _) = requests
    assert first.path == "/api/v1/namespaces/n/configmaps/c"
    assert first.content_type == "application/apply-patch+yaml"
    assert dict(first.query) == {"fieldManager": "kaito", "force": "false"}
    assert msgspec.json.decode(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "n"},
        "data": {"a": "1"},
    }
    assert second.path.endswith("/configmaps/c/status")
    assert dict(second.query) == {"fieldManager": "me", "force": "true"}
    assert "managedFields" in obj["metadata"]
