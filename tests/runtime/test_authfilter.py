"""Who may read protected metrics."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kaito.devcluster.apiserver import Fault
from kaito.runtime import (
    SERVICE_ACCOUNTS,
    Client,
    ConfigError,
    Forbidden,
    InternalError,
    Manager,
    ManagerOptions,
    Rest,
    manifest_resource,
)
from kaito.runtime.serving import authfilter as authfilter_module
from kaito.runtime.serving.authfilter import AccessFilter
from kaito.runtime.serving.health import HttpServer
from kaito.runtime.serving.issuing import renew
from support.controlplane import ControlPlane
from support.front import Front
from support.waiting import eventually

CLUSTER_ROLES = manifest_resource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False)
BINDINGS = manifest_resource(
    "rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False
)

TOKENS = "tokenreviews.authentication.k8s.io"
ACCESS = "subjectaccessreviews.authorization.k8s.io"


class ManualClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> None:
        raise AssertionError("durations only")


async def account(client: Client, namespace: str, name: str, *, may_read: bool) -> str:
    """A service account's token."""
    await client.create(
        SERVICE_ACCOUNTS,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
    )
    if may_read:
        role = f"{namespace}-metrics"
        await client.create(
            CLUSTER_ROLES,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": role},
                "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
            },
        )
        await client.create(
            BINDINGS,
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            },
        )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    answer = await client.post(SERVICE_ACCOUNTS, name, "token", request, namespace)
    return str(answer["status"]["token"])


class Page:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, token: str = "", *, scheme: str = "Bearer", path: str = "/metrics") -> tuple[int, str]:
        headers = {"Authorization": f"{scheme} {token}"} if token else {}
        async with self._session.get(self._url + path, headers=headers) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def guarded(rest: Rest, clock: ManualClock | None = None) -> AsyncIterator[Page]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    handler = AccessFilter(rest, clock=clock).protect(hello)
    server = HttpServer("127.0.0.1:0", {"/metrics": handler, "/other": handler})
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Page(f"http://127.0.0.1:{server.port}", session)
    finally:
        await server.stop()


async def test_a_permitted_account_reads_and_nobody_else(rest: Rest, client: Client, namespace: str) -> None:
    reader = await account(client, namespace, "reader", may_read=True)
    stranger = await account(client, namespace, "stranger", may_read=False)
    async with guarded(rest) as page:
        assert await page.get(reader) == (200, "hello")
        assert (await page.get(reader, path="/other"))[0] == 403
        status, text = await page.get(stranger)
        assert status == 403
        assert f"system:serviceaccount:{namespace}:stranger" in text
        for token, scheme in (("", "Bearer"), ("nonsense", "Bearer"), (reader, "Basic"), (" ", "Bearer")):
            assert (await page.get(token, scheme=scheme))[0] == 401


async def test_answers_are_remembered_for_their_time(rest: Rest, client: Client, front: Front, namespace: str) -> None:
    reader = await account(client, namespace, "reader", may_read=True)
    stranger = await account(client, namespace, "stranger", may_read=False)
    clock = ManualClock()
    tokens = front.faults.add(Fault("create", TOKENS, count=-1))
    access = front.faults.add(Fault("create", ACCESS, count=-1))

    async with guarded(rest, clock) as page:

        async def reviews(token: str, after: float) -> tuple[int, int]:
            """Token and access reviews that a request causes ``after`` seconds."""
            clock.time += after
            before = tokens.hits, access.hits
            await page.get(token)
            return tokens.hits - before[0], access.hits - before[1]

        assert await reviews(reader, 0) == (1, 1)
        assert await reviews(reader, 59) == (0, 0)
        assert await reviews(reader, 2) == (1, 0)
        assert await reviews(reader, 240) == (1, 1)
        assert await reviews(stranger, 0) == (1, 1)
        assert await reviews(stranger, 29) == (0, 0)
        assert await reviews(stranger, 2) == (0, 1)
        assert await reviews("nonsense", 0) == (1, 0)
        assert await reviews("nonsense", 59) == (0, 0)


async def test_equal_questions_at_once_are_asked_once(rest: Rest, client: Client, front: Front, namespace: str) -> None:
    reader = await account(client, namespace, "reader", may_read=True)
    tokens = front.faults.add(Fault("create", TOKENS, count=-1, delay=0.05))
    async with guarded(rest) as page:
        answers = await asyncio.gather(*(page.get(reader) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert tokens.hits == 1


async def test_a_failing_review_is_tried_again_and_not_remembered(
    rest: Rest, client: Client, front: Front, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authfilter_module, "RETRY_DELAY", 0.001)
    reader = await account(client, namespace, "reader", may_read=True)
    async with guarded(rest) as page:
        flaky = front.faults.add(Fault("create", TOKENS, error=InternalError("etcd"), count=4))
        assert (await page.get(reader))[0] == 200
        assert flaky.hits == 4
        broken = front.faults.add(Fault("create", TOKENS, error=InternalError("etcd"), count=-1))
        status, text = await page.get("another")
        assert (status, broken.hits) == (500, 5)
        assert "etcd" not in text
        front.faults.clear()
        assert (await page.get("another"))[0] == 401
        # Being refused the review itself is not worth trying again.
        refused = front.faults.add(Fault("create", TOKENS, error=Forbidden("no"), count=-1))
        assert (await page.get("third"))[0] == 500
        assert refused.hits == 1
    front.faults.clear()


async def test_a_review_without_an_answer_ends(rest: Rest, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authfilter_module, "REVIEW_TIMEOUT", 0.02)
    monkeypatch.setattr(authfilter_module, "RETRY_DELAY", 0.001)
    hanging = front.faults.add(Fault("create", TOKENS, count=-1, delay=30.0))
    async with guarded(rest) as page:
        assert (await page.get("any"))[0] == 500
    assert hanging.hits == 5
    front.faults.clear()


async def test_a_crowd_of_strangers_keeps_nobody_waiting_who_is_known(
    rest: Rest, client: Client, front: Front, namespace: str
) -> None:
    """Neither the operator's own requests nor those who may read; what is too much is refused at once."""
    clock = ManualClock()
    reader = await account(client, namespace, "reader", may_read=True)
    async with guarded(rest, clock) as page:
        assert (await page.get(reader))[0] == 200
        hanging = front.faults.add(Fault("create", TOKENS, count=-1, delay=3600.0))
        strangers = [asyncio.create_task(page.get(f"stranger-{number}")) for number in range(80)]
        waiting = authfilter_module.STRANGERS_WAITING
        await eventually(lambda: sum(task.done() for task in strangers) == len(strangers) - waiting)
        assert {task.result()[0] for task in strangers if task.done()} == {429}
        await eventually(lambda: hanging.hits == authfilter_module.STRANGERS_AT_ONCE)
        front.faults.clear()
        clock.time += 400.0  # nothing that was said counts any more
        await asyncio.gather(*(client.get(SERVICE_ACCOUNTS, "reader", namespace) for _ in range(32)))
        assert (await page.get(reader))[0] == 200
        assert sum(task.done() for task in strangers) == len(strangers) - waiting
        for task in strangers:
            task.cancel()
        await asyncio.wait(strangers)


async def test_memory_is_bounded(rest: Rest, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authfilter_module, "MAX_REMEMBERED", 2)
    tokens = front.faults.add(Fault("create", TOKENS, count=-1))
    async with guarded(rest) as page:
        for token in ("a", "b", "c", "c", "a"):
            await page.get(token)
    assert tokens.hits == 4
    front.faults.clear()


@pytest.mark.parametrize("from_folder", [True, False])
async def test_a_manager_serves_its_metrics_securely(
    control_plane: ControlPlane, client: Client, namespace: str, tmp_path: Path, from_folder: bool
) -> None:
    reader = await account(client, namespace, "reader", may_read=True)
    material = renew(None, ["localhost"], datetime.now(UTC), timedelta(days=1))
    (tmp_path / "tls.crt").write_bytes(material.certificate)
    (tmp_path / "tls.key").write_bytes(material.key)
    manager = Manager(
        control_plane.config,
        ManagerOptions(
            metrics_address="localhost:0",
            health_address="0",
            metrics_secure=True,
            metrics_certificates=tmp_path if from_folder else None,
        ),
    )
    task = asyncio.create_task(manager.run())
    await eventually(lambda: manager.metrics_port)
    context = ssl.create_default_context(cadata=material.authorities.decode())
    if not from_folder:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        page = Page(f"https://localhost:{manager.metrics_port}", session)
        status, text = await page.get(reader)
        assert status == 200
        assert "rest_client_requests_total" in text
        assert (await page.get())[0] == 401
    manager.stop()
    await task


async def test_a_manager_without_its_metrics_certificate_does_not_start(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    options = ManagerOptions(
        metrics_address="127.0.0.1:0", health_address="0", metrics_secure=True, metrics_certificates=tmp_path
    )
    with pytest.raises(ConfigError, match=r"tls\.crt"):
        await Manager(control_plane.config, options).run()
