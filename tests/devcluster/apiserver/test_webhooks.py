"""The API server asks webhooks, over HTTPS, by their configurations."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.runtime import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    MUTATING_WEBHOOK_CONFIGURATIONS,
    NAMESPACES,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    AdmissionRequest,
    AdmissionResponse,
    BadRequest,
    Client,
    Conflict,
    Forbidden,
    InternalError,
    Invalid,
    NotFound,
    Rest,
    RuntimeMetrics,
    WebhookServer,
)
from kaito.runtime.serving.certificates import ServingContext
from kaito.runtime.serving.issuing import renew
from support.controlplane import of_server


class Certificates:
    """A certificate for ``localhost``, and the authority behind it."""

    def __init__(self) -> None:
        self._serving = ServingContext()
        self._material = renew(None, ["localhost"], datetime.now(UTC), timedelta(days=1))
        self._serving.replace(self._material.certificate, self._material.key)

    @property
    def context(self) -> ssl.SSLContext:
        return self._serving.context

    @property
    def authority(self) -> bytes:
        return self._material.authorities

    async def start(self) -> None:
        pass

    async def run(self) -> None:
        pass


class Judge:
    """A webhook server that remembers what it was asked, and answers as it is told by path."""

    def __init__(self, port: int, authority: bytes) -> None:
        self.port = port
        self.bundle = base64.b64encode(authority).decode()
        self.asked: list[tuple[str, AdmissionRequest]] = []
        self.answers: dict[str, Any] = {}

    async def answer(self, path: str, request: AdmissionRequest) -> AdmissionResponse:
        self.asked.append((path, request))
        answer = self.answers.get(path)
        if callable(answer):
            answer = answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            return AdmissionResponse(True, patch=tuple(answer))
        return answer if isinstance(answer, AdmissionResponse) else AdmissionResponse(True)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    certificates = Certificates()
    server = WebhookServer(certificates, RuntimeMetrics(), "127.0.0.1:0")
    judge: Judge
    for path in ("/a", "/b", "/c"):

        async def handle(request: AdmissionRequest, path: str = path) -> AdmissionResponse:
            return await judge.answer(path, request)

        server.add_admission(path, handle)
    await server.start()
    judge = Judge(server.port, certificates.authority)
    yield judge
    await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with ApiServer(ApiServerOptions()) as server:
        rest = Rest(of_server(server), RuntimeMetrics())
        yield Client(rest)
        await rest.aclose()


def entry(judge: Judge, path: str = "/a", **more: Any) -> dict[str, Any]:
    return {
        "name": f"{path.strip('/')}.example.com",
        "clientConfig": {"url": f"https://localhost:{judge.port}{path}", "caBundle": judge.bundle},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["configmaps"],
            }
        ],
    } | more


async def configure(client: Client, *webhooks: dict[str, Any], mutating: bool = False, name: str = "judges") -> None:
    resource = MUTATING_WEBHOOK_CONFIGURATIONS if mutating else VALIDATING_WEBHOOK_CONFIGURATIONS
    manifest = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name},
        "webhooks": list(webhooks),
    }
    await client.create(resource, manifest)


def config_map(name: str = "c", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_a_denial_reaches_the_user_with_its_causes_and_nothing_is_stored(client: Client, judge: Judge) -> None:
    await configure(client, entry(judge))
    causes = [{"reason": "FieldValueInvalid", "field": "data.x", "message": "no"}]
    judge.answers["/a"] = Invalid("data.x: no", details={"causes": causes})
    with pytest.raises(Invalid, match=r'admission webhook "a\.example\.com" denied the request: data.x: no') as denied:
        await client.create(CONFIG_MAPS, config_map(x="1"))
    assert denied.value.details["causes"] == causes
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "c", "default")


async def test_what_a_webhook_is_told(client: Client, judge: Judge) -> None:
    await configure(client, entry(judge))
    await client.create(CONFIG_MAPS, config_map(x="1"))
    await client.patch(CONFIG_MAPS, "c", {"data": {"x": "2"}}, namespace="default")
    await client.delete(CONFIG_MAPS, "c", "default")
    created, updated, deleted = (request for _, request in judge.asked)
    assert [request.operation for request in (created, updated, deleted)] == ["CREATE", "UPDATE", "DELETE"]
    assert (created.name, created.namespace, created.resource.resource) == ("c", "default", "configmaps")
    assert bytes(created.old_object) == b"null"
    assert b'"x":"2"' in bytes(updated.object)
    assert b'"x":"1"' in bytes(updated.old_object)
    assert bytes(deleted.object) == b"null"
    assert "system:masters" in created.user_info.groups


async def test_others_are_not_asked(client: Client, judge: Judge) -> None:
    await configure(
        client,
        entry(judge, namespaceSelector={"matchLabels": {"judged": "true"}}),
        entry(judge, "/b", objectSelector={"matchLabels": {"judged": "true"}}),
        entry(judge, "/c", matchConditions=[{"name": "big", "expression": "size(object.data) > 1"}]),
    )
    await client.create(CONFIG_MAPS, config_map(x="1"))
    assert judge.paths == []
    await client.patch(NAMESPACES, "default", {"metadata": {"labels": {"judged": "true"}}})
    marked = config_map("d", x="1", y="2")
    marked["metadata"]["labels"] = {"judged": "true"}
    await client.create(CONFIG_MAPS, marked)
    assert sorted(judge.paths) == ["/a", "/b", "/c"]


async def test_changes_come_first_and_in_order(client: Client, judge: Judge) -> None:
    await configure(client, entry(judge, "/c"))
    await configure(
        client,
        entry(judge, "/a", reinvocationPolicy="IfNeeded"),
        entry(judge, "/b"),
        mutating=True,
    )
    judge.answers["/a"] = [{"op": "add", "path": "/data/a", "value": "1"}]
    judge.answers["/b"] = [{"op": "add", "path": "/data/b", "value": "2"}]
    stored = await client.create(CONFIG_MAPS, config_map(x="0"))
    assert stored["data"] == {"x": "0", "a": "1", "b": "2"}
    assert judge.paths == ["/a", "/b", "/a", "/c"]
    assert b'"b":"2"' in bytes(judge.asked[-1][1].object)


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
async def test_a_webhook_that_is_down(client: Client, judge: Judge, policy: str) -> None:
    down = {"url": "https://127.0.0.1:1/a", "caBundle": judge.bundle}
    await configure(client, entry(judge, clientConfig=down, failurePolicy=policy))
    if policy == "Ignore":
        await client.create(CONFIG_MAPS, config_map())
        return
    with pytest.raises(InternalError, match=r'failed calling webhook "a\.example\.com": failed to call webhook'):
        await client.create(CONFIG_MAPS, config_map())


async def test_a_webhook_that_takes_too_long(client: Client, judge: Judge) -> None:
    held = asyncio.Event()
    judge.answers["/a"] = lambda _: held.wait()
    await configure(client, entry(judge, timeoutSeconds=1))
    with pytest.raises(InternalError, match="context deadline exceeded"):
        await client.create(CONFIG_MAPS, config_map())
    held.set()


async def test_a_certificate_of_somebody_else_is_not_trusted(client: Client, judge: Judge) -> None:
    bundle = base64.b64encode(Certificates().authority).decode()
    config = {"url": f"https://localhost:{judge.port}/a", "caBundle": bundle}
    await configure(client, entry(judge, clientConfig=config))
    with pytest.raises(InternalError, match="failed to call webhook"):
        await client.create(CONFIG_MAPS, config_map())


async def test_dry_runs_are_only_for_those_who_take_them(client: Client, judge: Judge) -> None:
    await configure(client, entry(judge))
    stage = client.with_options(dry_run=True)
    await stage.create(CONFIG_MAPS, config_map())
    assert judge.asked[0][1].dry_run is True
    await configure(client, entry(judge, "/b", sideEffects="Some"), name="others")
    with pytest.raises(BadRequest, match="does not support dry run"):
        await stage.create(CONFIG_MAPS, config_map())


async def test_a_change_that_was_overtaken_is_made_anew(client: Client, judge: Judge) -> None:
    await client.create(CONFIG_MAPS, config_map(x="1"))
    await configure(client, entry(judge))

    @asynccontextmanager
    async def overtaken(value: str) -> AsyncIterator[None]:
        first = True

        async def answer() -> AdmissionResponse:
            nonlocal first
            if first:
                first = False
                await client.patch(CONFIG_MAPS, "c", {"data": {"y": value}}, namespace="default")
            return AdmissionResponse(True)

        judge.answers["/a"] = lambda _: answer()
        yield

    async with overtaken("theirs"):
        patched = await client.patch(CONFIG_MAPS, "c", {"data": {"x": "mine"}}, namespace="default")
    assert patched["data"] == {"x": "mine", "y": "theirs"}
    old = await client.get(CONFIG_MAPS, "c", "default")
    async with overtaken("again"):
        with pytest.raises(Conflict):
            await client.update(CONFIG_MAPS, {**old, "data": {"x": "late"}})


async def test_a_deletion_can_be_denied(client: Client, judge: Judge) -> None:
    await client.create(CONFIG_MAPS, config_map())
    await configure(client, entry(judge))
    judge.answers["/a"] = Forbidden("not yet")
    with pytest.raises(Forbidden, match="not yet"):
        await client.delete(CONFIG_MAPS, "c", "default")
    assert await client.get(CONFIG_MAPS, "c", "default")


async def test_what_a_webhook_makes_of_an_object_is_checked_like_any_other(client: Client, judge: Judge) -> None:
    rules = [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}]
    await configure(client, entry(judge, rules=rules), mutating=True)
    judge.answers["/a"] = [{"op": "replace", "path": "/spec/replicas", "value": -1}]
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": pod},
    }
    with pytest.raises(Invalid, match="replicas"):
        await client.create(DEPLOYMENTS, deployment)
