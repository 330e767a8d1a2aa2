"""The server itself: discovery, OpenAPI, start and stop, faults."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions, Fault
from kaito.devcluster.apiserver.strategies.services import KUBERNETES_IP
from kaito.runtime import TooManyRequests

if TYPE_CHECKING:
    from devcluster.harness import Kube

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


async def test_version_with_and_without_a_slash(kube: Kube) -> None:
    for path in ("/version", "/version/"):
        body = (await kube.get(path)).body
        assert (body["major"], body["minor"]) == ("1", "32")
    for path in ("/api", "/api/", "/apis", "/apis/"):
        assert (await kube.get(path)).status == 200


async def test_aggregated_discovery(kube: Kube) -> None:
    answer = await kube.call("GET", "/apis", headers={"Accept": f"{AGGREGATED},application/json"})
    assert answer.headers["Content-Type"] == AGGREGATED
    groups = {item["metadata"]["name"]: item for item in answer.body["items"]}
    deployments = next(r for r in groups["apps"]["versions"][0]["resources"] if r["resource"] == "deployments")
    assert deployments["responseKind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert (deployments["scope"], deployments["shortNames"]) == ("Namespaced", ["deploy"])
    assert {s["subresource"] for s in deployments["subresources"]} == {"scale", "status"}
    core = await kube.call("GET", "/api", headers={"Accept": AGGREGATED})
    assert core.body["items"][0]["versions"][0]["version"] == "v1"
    unchanged = await kube.call("GET", "/apis", headers={"Accept": AGGREGATED, "If-None-Match": answer.headers["ETag"]})
    assert unchanged.status == 304


async def test_older_clients_fall_back_to_plain_discovery(kube: Kube) -> None:
    beta = AGGREGATED.replace("v=v2", "v=v2beta1")
    answer = await kube.call("GET", "/apis", headers={"Accept": f"{beta},application/json"})
    assert (answer.headers["Content-Type"], answer.body["kind"]) == ("application/json", "APIGroupList")
    assert (await kube.get("/api")).body["versions"] == ["v1"]
    assert (await kube.get("/apis/apps")).body["preferredVersion"]["groupVersion"] == "apps/v1"
    names = {resource["name"]: resource for resource in (await kube.get("/apis/apps/v1")).body["resources"]}
    assert names["deployments/scale"]["kind"] == "Scale"
    assert names["deployments/scale"]["group"] == "autoscaling"


async def test_openapi(kube: Kube) -> None:
    index = (await kube.get("/openapi/v3")).body["paths"]
    url = index["apis/apps/v1"]["serverRelativeURL"]
    path, _, digest = url.partition("?hash=")
    document = await kube.get(path, hash=digest)
    assert "io.k8s.api.apps.v1.Deployment" in document.body["components"]["schemas"]
    assert document.headers["ETag"] == f'"{digest}"'
    assert (await kube.call("GET", path, headers={"If-None-Match": f'"{digest}"'})).status == 304


async def test_a_new_cluster_has_its_system_objects(kube: Kube) -> None:
    namespaces = [item["metadata"]["name"] for item in (await kube.get("/api/v1/namespaces")).body["items"]]
    assert namespaces == ["default", "kube-node-lease", "kube-public", "kube-system"]
    service = (await kube.get("/api/v1/namespaces/default/services/kubernetes")).body
    assert service["spec"]["clusterIP"] == KUBERNETES_IP
    roles = await kube.get("/apis/rbac.authorization.k8s.io/v1/clusterroles")
    assert {"cluster-admin", "admin", "edit", "view"} <= {item["metadata"]["name"] for item in roles.body["items"]}


async def test_the_server_says_where_it_is(kube: Kube) -> None:
    async def said() -> tuple[str, int]:
        subset = (await kube.get("/api/v1/namespaces/default/endpoints/kubernetes")).body["subsets"][0]
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        (made,) = (await kube.get(path, labelSelector="kubernetes.io/service-name=kubernetes")).body["items"]
        assert made["addressType"] == "IPv4"
        assert made["ports"] == subset["ports"]
        assert made["endpoints"][0]["addresses"] == [subset["addresses"][0]["ip"]]
        return subset["addresses"][0]["ip"], subset["ports"][0]["port"]

    server = kube.server
    assert f"https://{':'.join(map(str, await said()))}" == server.url
    await server.stop()
    await server.start()
    assert f"https://{':'.join(map(str, await said()))}" == server.url


async def test_start_and_stop_may_be_repeated_and_state_survives(tmp_path: Path) -> None:
    server = ApiServer(ApiServerOptions(tls=False))
    await server.stop()
    await server.start()
    await server.start()
    headers = {"Authorization": f"Bearer {server.admin_token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
        async with session.post(server.url + CONFIG_MAPS, json=body) as answer:
            assert answer.status == 201
        watch = await session.get(server.url + CONFIG_MAPS, params={"watch": "1"})
        await server.stop()
        await server.stop()
        async with asyncio.timeout(5):
            await watch.content.read()
        watch.close()
        await server.start()
        async with session.get(f"{server.url}{CONFIG_MAPS}/a") as answer:
            assert answer.status == 200
    await server.stop()


async def test_a_kept_identity_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    authorities = []
    for _ in range(2):
        async with ApiServer(ApiServerOptions(tls_folder=folder)) as server:
            authorities.append(server.ca_pem)
            context = ssl.create_default_context(cadata=server.ca_pem.decode())
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.get(server.url.replace("127.0.0.1", "localhost") + "/healthz") as answer,
            ):
                assert await answer.text() == "ok"
    assert authorities[0] == authorities[1]
    assert (folder / "tls.key").stat().st_mode & 0o777 == 0o600


async def test_a_taken_port_is_an_error_that_leaves_nothing(kube: Kube) -> None:
    port = int(kube.server.url.rpartition(":")[2])
    second = ApiServer(ApiServerOptions(port=port))
    with pytest.raises(OSError, match="address already in use"):
        await second.start()


async def test_injected_errors_and_delays(kube: Kube) -> None:
    fault = kube.server.faults.add(
        Fault(verb="create", resource="configmaps", error=TooManyRequests("slow down", retry_after=3), count=2)
    )
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    for _ in range(2):
        answer = await kube.post(CONFIG_MAPS, body)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert (await kube.get(CONFIG_MAPS)).status == 200
    assert (await kube.post(CONFIG_MAPS, body)).status == 201
    assert fault.hits == 2


async def test_answers_can_be_lost_before_and_after_the_write(kube: Kube) -> None:
    for name, drop, stored in (("a", "before", 404), ("b", "after", 200)):
        kube.server.faults.add(Fault(verb="create", drop=drop))
        with pytest.raises(aiohttp.ClientError):
            await kube.post(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
        assert (await kube.get(f"{CONFIG_MAPS}/{name}")).status == stored
