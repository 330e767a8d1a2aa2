"""The local cluster as a whole, in this process and as one of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from devcluster.living import is_ready
from kaito.devcluster.cluster import ClusterOptions, LocalCluster
from kaito.devcluster.operator import CLUSTER_NAME, RESOURCE_GROUP, SUBSCRIPTION
from kaito.devcluster.process import LocalClusterError, start, stop
from kaito.devcluster.state import CLOUD_TOKEN, StateFolder
from kaito.runtime import NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS, Client, Manifest, NotFound
from support.waiting import eventually

SPEED = 10.0
POOLS = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/Microsoft.ContainerService"
    f"/managedClusters/{CLUSTER_NAME}/agentPools"
)


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(ClusterOptions(speed=SPEED)) as cluster:
        yield cluster


async def pod(client: Client, name: str = "web", image: str = "nginx:1") -> Manifest:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }
    await client.create(PODS, body, namespace="default")

    async def ready() -> bool:
        return is_ready(await client.get(PODS, name, "default"))

    await eventually(ready)
    return await client.get(PODS, name, "default")


async def test_an_agent_pool_becomes_a_node_and_goes_with_it(cluster: LocalCluster) -> None:
    client = cluster.controllers.client
    headers = {"Authorization": f"Bearer {CLOUD_TOKEN}"}
    url = f"{cluster.cloud.url}{POOLS}/gpu1?api-version=2024-05-01"
    body = {"properties": {"count": 1, "vmSize": "Standard_NC12s_v3", "mode": "User", "osDiskSizeGB": 100}}

    async def nodes() -> list[Manifest]:
        return await client.list(NODES, labels={"agentpool": "gpu1"})

    async def joined() -> bool:
        return any(map(is_ready, await nodes()))

    async def left() -> bool:
        return not await nodes()

    async with aiohttp.ClientSession(headers=headers) as cloud:
        async with cloud.put(url, json=body) as answer:
            assert answer.status == 201, await answer.text()
        await eventually(joined)
        # Azure says that the pool is done a little later.
        await eventually(lambda: cluster.cloud.pools["gpu1"].state == "Succeeded")
        (node,) = await nodes()
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "2"
        assert node["metadata"]["labels"]["kaito.sh/simulated"] == "true"
        async with cloud.delete(url) as answer:
            assert answer.status == 202
        await eventually(left)


async def test_logs_say_that_nothing_runs_and_end_with_the_pod(cluster: LocalCluster) -> None:
    client = cluster.controllers.client
    await pod(client)
    tls = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=cluster.server.ca_pem.decode()))
    headers = {"Authorization": f"Bearer {cluster.server.admin_token}"}
    path = f"{cluster.server.url}/api/v1/namespaces/default/pods/web/log"
    async with aiohttp.ClientSession(connector=tls, headers=headers) as session:
        async with session.get(path) as answer:
            assert "no process runs" in await answer.text()
        async with session.get(f"{path}?follow=true") as answer:
            assert b"simulated container main" in await answer.content.readline()
            rest = asyncio.create_task(answer.content.read())
            await asyncio.sleep(0)
            assert not rest.done()
            await client.delete(PODS, "web", "default")
            async with asyncio.timeout(10):
                await rest


async def test_without_workloads_there_are_only_namespaces_and_garbage_collection() -> None:
    async with LocalCluster(ClusterOptions(workloads=False)) as cluster:
        client = cluster.controllers.client

        async def furnished() -> bool:
            accounts = await client.list(SERVICE_ACCOUNTS)
            namespaces = await client.list(NAMESPACES)
            return {item["metadata"]["namespace"] for item in accounts} == {
                item["metadata"]["name"] for item in namespaces
            }

        await eventually(furnished)
        assert await client.list(NODES) == []


async def test_a_taken_port_is_reported_and_nothing_is_left() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cluster = LocalCluster(ClusterOptions(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"):
            await cluster.start()
        await cluster.stop()


async def test_stopping_in_the_middle_of_everything_leaves_nothing() -> None:
    async with LocalCluster() as cluster:
        for number in range(5):
            body = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"p{number}"},
                "spec": {"containers": [{"name": "main", "image": "nginx"}]},
            }
            await cluster.controllers.client.create(PODS, body, namespace="default")


async def test_the_kubeconfig_is_the_administrators(cluster: LocalCluster, tmp_path: Path) -> None:
    config = yaml.safe_load(cluster.kubeconfig)
    assert config["clusters"][0]["cluster"]["server"] == cluster.server.url
    assert config["users"][0]["user"]["token"] == cluster.server.admin_token


def test_as_a_process_it_announces_itself_and_ends_when_asked(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "dev")
    running, process = start(folder)
    try:
        assert folder.running() == running
        assert running.pid == process.pid
        assert yaml.safe_load(folder.kubeconfig.read_text())["clusters"][0]["cluster"]["server"] == running.server
        assert folder.kubeconfig.stat().st_mode & 0o077 == 0
        with pytest.raises(LocalClusterError, match="runs in"):
            start(folder)
        os.kill(running.pid, signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert folder.running() is None
        assert not folder.kubeconfig.exists()
    finally:
        stop(folder)
        process.wait()
    assert not folder.path.exists()


def test_as_an_attached_process_it_ends_with_its_parent(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "dev")
    _, process = start(folder, attached=True)
    try:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert not folder.kubeconfig.exists()
    finally:
        stop(folder)
        process.wait()


async def test_a_port_that_is_taken_ends_the_process_with_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(LocalClusterError, match="in use"):
            await asyncio.to_thread(start, StateFolder(tmp_path / "dev"), port=taken.getsockname()[1])


async def test_a_node_that_goes_takes_its_pods(cluster: LocalCluster) -> None:
    client = cluster.controllers.client
    held = await pod(client)
    await client.delete(NODES, held["spec"]["nodeName"])

    async def gone() -> bool:
        try:
            await client.get(PODS, "web", "default")
        except NotFound:
            return True
        return False

    await eventually(gone)
