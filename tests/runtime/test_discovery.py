"""Resources found at run time, against an API server and against one that knows only the older documents."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from kaito.runtime import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    NODES,
    PODS,
    Client,
    DecodeError,
    Discovery,
    Manifest,
    NoKindMatch,
    NotFound,
    Rest,
    RestConfig,
    RuntimeMetrics,
    ServiceUnavailable,
)
from kaito.runtime.serving.health import HttpServer
from support.controlplane import ControlPlane
from support.waiting import eventually


class ManualClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> Any:
        raise AssertionError("durations only")


async def test_built_in_kinds_are_found_by_group_and_kind(rest: Rest) -> None:
    discovery = Discovery(rest)
    for known in (PODS, NODES, DEPLOYMENTS):
        found = await discovery.resource(known.group, known.kind)
        assert found == known
        assert found.namespaced is known.namespaced
        assert await discovery.resource(known.group, known.kind, known.version) == known
        assert await discovery.of_manifest({"apiVersion": known.api_version, "kind": known.kind}) == known
    with pytest.raises(NoKindMatch, match=r"no kind Pod in version v7"):
        await discovery.resource("", "Pod", "v7")
    with pytest.raises(NoKindMatch, match=r"no kind Gadget\.example\.com: is its CustomResourceDefinition installed"):
        await discovery.resource("example.com", "Gadget")


def definition(plural: str, group: str) -> Manifest:
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "kind": "Gadget", "singular": "gadget", "listKind": "GadgetList"},
            "versions": [
                {"name": "v1beta1", "served": True, "storage": False, "schema": schema},
                {"name": "v1", "served": True, "storage": True, "schema": schema},
            ],
        },
    }


async def test_a_definition_that_is_installed_later_is_found(rest: Rest, client: Client) -> None:
    """Pitfall 78."""
    clock = ManualClock()
    discovery = Discovery(rest, clock=clock)
    group = f"{secrets.token_hex(4)}.example.com"
    with pytest.raises(NoKindMatch):
        await discovery.resource(group, "Gadget")
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition("gadgets", group))

    async def served() -> bool:
        """Both versions; a server may come to know of them one after the other."""
        try:
            for version in ("v1", "v1beta1"):
                await rest.send("GET", f"/apis/{group}/{version}/gadgets")
            listed = json.loads((await rest.send("GET", f"/apis/{group}")).body)
        except NotFound:
            return False
        return len(listed["versions"]) == 2

    await eventually(served)
    clock.time += 10.0
    resource = await discovery.resource(group, "Gadget")
    # The stable version is the server's preference, whatever the order of the definition.
    assert (resource.version, resource.plural, resource.namespaced) == ("v1", "gadgets", False)
    assert (await discovery.resource(group, "Gadget", "v1beta1")).version == "v1beta1"
    await client.delete(CUSTOM_RESOURCE_DEFINITIONS, f"gadgets.{group}")


class Stub:
    """An API server that serves discovery documents and counts what is asked of it."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self.documents = dict(documents)
        self.asked: Counter[str] = Counter()
        self.failing = False
        self.delay = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        await asyncio.sleep(self.delay)
        if self.failing:
            return web.json_response({"kind": "Status", "code": 503, "message": "not now"}, status=503)
        document = self.documents.get(request.path)
        if document is None:
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)
        return web.json_response(document)


@asynccontextmanager
async def discovering(stub: Stub, clock: ManualClock | None = None) -> AsyncIterator[Discovery]:
    server = HttpServer("127.0.0.1:0", {"/{path:.*}": stub.handle})
    await server.start()
    rest = Rest(RestConfig(server=f"http://127.0.0.1:{server.port}"), RuntimeMetrics())
    try:
        yield Discovery(rest, clock=clock)
    finally:
        await rest.aclose()
        await server.stop()


def resources(*named: tuple[str, str, bool]) -> Manifest:
    entries = [
        {"name": name, "kind": kind, "namespaced": namespaced, "verbs": ["get"]} for name, kind, namespaced in named
    ]
    return {"kind": "APIResourceList", "resources": entries}


LEGACY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": resources(("pods", "Pod", True), ("pods/status", "Pod", True), ("pods/eviction", "Eviction", True)),
    "/apis": {
        "kind": "APIGroupList",
        "groups": [
            {
                "name": "example.com",
                "versions": [
                    {"groupVersion": "example.com/v1", "version": "v1"},
                    {"groupVersion": "example.com/v2", "version": "v2"},
                ],
                "preferredVersion": {"groupVersion": "example.com/v2", "version": "v2"},
            },
            {"name": "broken.com", "versions": [{"groupVersion": "broken.com/v1", "version": "v1"}]},
        ],
    },
    "/apis/example.com/v1": resources(("widgets", "Widget", True), ("gizmos", "Gizmo", False)),
    "/apis/example.com/v2": resources(("widgets", "Widget", True)),
}


async def test_without_aggregated_discovery_only_the_group_in_question_is_asked() -> None:
    """Pitfall 78."""
    stub = Stub(LEGACY)
    async with discovering(stub) as discovery:
        assert (await discovery.resource("example.com", "Widget")).version == "v2"
        gizmo = await discovery.resource("example.com", "Gizmo")
        assert (gizmo.version, gizmo.plural, gizmo.namespaced) == ("v1", "gizmos", False)
        assert (await discovery.resource("example.com", "Widget", "v1")).version == "v1"
        assert stub.asked == {"/apis": 1, "/apis/example.com/v1": 1, "/apis/example.com/v2": 1}
        assert (await discovery.resource("", "Pod")).plural == "pods"
        with pytest.raises(NoKindMatch):
            await discovery.resource("", "Eviction")
        with pytest.raises(NoKindMatch):
            await discovery.resource("broken.com", "Anything")


def aggregated(**kinds: str) -> Manifest:
    found = [
        {
            "resource": plural,
            "scope": "Namespaced",
            "responseKind": {"group": "", "version": "", "kind": kind},
            "verbs": [],
        }
        for kind, plural in kinds.items()
    ]
    versions = [{"version": "v1", "resources": found}]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "items": [{"metadata": {"name": "example.com"}, "versions": versions}],
    }


async def test_resources_by_their_verbs_each_once(client: Client) -> None:
    found = await Discovery(client.rest).with_verbs("list", "watch", "delete")
    named = {(resource.group, resource.plural) for resource in found}
    assert len(named) == len(found)
    assert {("", "pods"), ("apps", "deployments"), ("apiextensions.k8s.io", "customresourcedefinitions")} <= named
    assert ("authentication.k8s.io", "tokenreviews") not in named


@pytest.mark.parametrize("is_aggregated", [True, False])
async def test_a_resource_with_verbs_is_of_the_first_version_that_has_them(is_aggregated: bool) -> None:
    def entry(plural: str, *verbs: str) -> Manifest:
        described = {"responseKind": {"kind": plural.title()}, "scope": "Namespaced", "resource": plural}
        return {"name": plural, "kind": plural.title(), "namespaced": True, "verbs": verbs} | described

    full = ("create", "delete", "list")
    served = {"v2": [entry("widgets", *full), entry("gizmos", "create")], "v1": [entry("gizmos", *full)]}
    versions = [{"version": version, "resources": entries} for version, entries in served.items()]
    documents: dict[str, Any] = {
        "/api": {"kind": "APIVersions", "versions": []},
        "/apis": {"kind": "APIGroupList", "groups": [{"name": "example.com", "versions": versions}]},
        **{f"/apis/example.com/{version}": {"resources": entries} for version, entries in served.items()},
    }
    if is_aggregated:
        items = [{"metadata": {"name": "example.com"}, "versions": versions}]
        documents = {path: {"kind": "APIGroupDiscoveryList", "items": []} for path in ("/api", "/apis")}
        documents["/apis"]["items"] = items
    async with discovering(Stub(documents)) as discovery:
        found = await discovery.with_verbs("list", "delete")
    assert [(resource.version, resource.plural) for resource in found] == [("v2", "widgets"), ("v1", "gizmos")]


@pytest.mark.parametrize("present", [True, False])
async def test_lookups_at_the_same_time_share_one_request(present: bool) -> None:
    """Pitfall 78."""
    stub = Stub({"/apis": aggregated(**({"Widget": "widgets"} if present else {}))})
    stub.delay = 0.05
    async with discovering(stub) as discovery:
        lookups = (discovery.resource("example.com", "Widget") for _ in range(50))
        answers = await asyncio.gather(*lookups, return_exceptions=True)
    assert stub.asked == {"/apis": 1}
    assert all(isinstance(answer, NoKindMatch) is not present for answer in answers)


async def test_absence_is_remembered_for_ten_seconds() -> None:
    """Pitfall 78."""
    stub, clock = Stub({"/apis": aggregated()}), ManualClock()
    async with discovering(stub, clock) as discovery:
        for _ in range(3):
            with pytest.raises(NoKindMatch):
                await discovery.resource("example.com", "Widget")
        assert stub.asked["/apis"] == 1
        stub.documents["/apis"] = aggregated(Widget="widgets")
        clock.time += 9.9
        with pytest.raises(NoKindMatch):
            await discovery.resource("example.com", "Widget")
        clock.time += 0.2
        assert (await discovery.resource("example.com", "Widget")).plural == "widgets"
        clock.time += 1000.0
        assert (await discovery.resource("example.com", "Widget")).plural == "widgets"
        assert stub.asked["/apis"] == 2
        stub.documents["/apis"] = aggregated(Widget="widgetries")
        discovery.invalidate()
        assert (await discovery.resource("example.com", "Widget")).plural == "widgetries"


async def test_a_failure_is_shared_by_those_who_wait_and_not_remembered() -> None:
    stub = Stub({"/apis": aggregated(Widget="widgets")})
    stub.delay, stub.failing = 0.05, True
    async with discovering(stub) as discovery:
        lookups = (discovery.resource("example.com", "Widget") for _ in range(20))
        answers = await asyncio.gather(*lookups, return_exceptions=True)
        assert all(isinstance(answer, ServiceUnavailable) for answer in answers)
        assert stub.asked["/apis"] == 1
        stub.failing = False
        assert (await discovery.resource("example.com", "Widget")).plural == "widgets"


async def test_a_caller_that_gives_up_leaves_the_others_served() -> None:
    stub = Stub({"/apis": aggregated(Widget="widgets")})
    stub.delay = 0.05
    async with discovering(stub) as discovery:
        first = asyncio.create_task(discovery.resource("example.com", "Widget"))
        second = asyncio.create_task(discovery.resource("example.com", "Widget"))
        await eventually(lambda: stub.asked["/apis"])
        first.cancel()
        assert (await second).plural == "widgets"
        await asyncio.wait([first])
        assert first.cancelled()


async def test_what_is_no_discovery_document_is_an_error() -> None:
    async with discovering(Stub({"/apis": ["?"]})) as discovery:
        with pytest.raises(DecodeError, match="not a discovery document"):
            await discovery.resource("example.com", "Widget")


async def test_a_manager_has_one(control_plane: ControlPlane) -> None:
    from kaito.runtime import Manager

    manager = Manager(control_plane.config)
    assert await manager.discovery.resource("apps", "Deployment") == DEPLOYMENTS
    await manager.rest.aclose()
