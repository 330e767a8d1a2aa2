"""Both controllers on one API server, with an emulated Azure, until a Workspace is ready and gone again.

On a server without workload controllers and kubelet, those of the local cluster run beside them as its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kaito.api.defaulting import read_workspace
from kaito.api.resources import MACHINES, NODE_CLAIMS, WORKSPACES
from kaito.controllers import machine, workspace
from kaito.controllers.machine.settings import Settings
from kaito.controllers.workspace.settings import NODE_SOURCE
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, build_nodes
from kaito.devcluster.cluster import ClusterOptions, Controllers
from kaito.provisioner import load_provider
from kaito.runtime import (
    DEPLOYMENTS,
    EVENTS,
    NODES,
    SERVICES,
    Client,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    Resource,
    RestConfig,
)
from support import provisioner
from support.controlplane import ControlPlane
from support.definitions import install
from support.nodes import join
from support.waiting import eventually

CONFIG = Path(__file__).parents[2] / "config"
SAMPLE = yaml.safe_load((CONFIG / "samples" / "workspace-phi-3-mini.inference.yaml").read_text())
NAME = SAMPLE["metadata"]["name"]
QUIET = ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0)


@pytest.fixture
async def cloud(client: Client) -> AsyncIterator[ArmEmulator]:
    async def arrive(pool: Pool) -> None:
        for node in build_nodes(pool):
            await join(client, node)

    async def leave(pool: Pool) -> None:
        for index in pool.instances:
            with suppress(NotFound):
                await client.delete(NODES, pool.node_name(index))

    options = ArmOptions(create_seconds=0.1, delete_seconds=0.1)
    async with ArmEmulator(options, on_pool_ready=arrive, on_pool_gone=leave) as emulator:
        yield emulator


@pytest.fixture
async def workloads(control_plane: ControlPlane, client: Client) -> AsyncIterator[None]:
    """Deployments, garbage collection and a kubelet, on a server that has none."""
    controllers = Controllers(control_plane.config, ClusterOptions(speed=10.0))
    await controllers.start()
    yield
    await controllers.stop()


@asynccontextmanager
async def operator(
    config: RestConfig, cloud: ArmEmulator, source: str = "machine", *, only: str = ""
) -> AsyncIterator[Manager]:
    site = cloud.options.site
    environ = {
        NODE_SOURCE: source,
        "AZURE_RESOURCE_MANAGER_ENDPOINT": cloud.url,
        "ARM_EMULATOR_TOKEN": cloud.options.token,
        "ARM_SUBSCRIPTION_ID": site.subscription,
        "ARM_RESOURCE_GROUP": site.resource_group,
        "AZURE_CLUSTER_NAME": site.cluster,
    }
    manager = Manager(config, QUIET)
    if only != "machine":
        workspace.setup(manager, environ)
    if only != "workspace":
        machine.add(manager, load_provider("aks", environ), replace(Settings(), poll_interval=0.05))
    running = asyncio.create_task(manager.run())
    try:
        yield manager
    finally:
        manager.stop()
        await running


async def test_a_workspace_becomes_ready_and_goes_without_a_trace(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    await install(client)
    async with operator(control_plane.config, cloud):
        await client.create(WORKSPACES, read_workspace(SAMPLE), namespace=namespace)
        await eventually(lambda: condition(client, namespace, "WorkspaceSucceeded"), deadline=30.0)

        found = await client.get(WORKSPACES, NAME, namespace)
        (pool,) = cloud.pools.values()
        labels = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": namespace}
        (made,) = await client.list(MACHINES, labels=labels)
        assert made.metadata.name == pool.name
        (node,) = await client.list(NODES, labels=labels)
        assert list(found.status.worker_nodes or ()) == [node["metadata"]["name"]]
        deployment = await client.get(DEPLOYMENTS, NAME, namespace)
        assert deployment["status"]["readyReplicas"] == 1
        service = await client.get(SERVICES, NAME, namespace)
        assert [port["port"] for port in service["spec"]["ports"]] == [80, 29500]

        told = {event["reason"] for event in await client.list(EVENTS, namespace)}
        assert {"MachineCreated", "DeploymentCreated", "ResourceReady", "WorkspaceReady"} <= told

        # A user's edit of what kaito owns is undone; what kaito does not own is left alone.
        patch = {"metadata": {"labels": {"mine": "kept"}}, "spec": {"replicas": 5}}
        await client.patch(DEPLOYMENTS, NAME, patch, namespace=namespace)

        async def repaired() -> bool:
            deployment = await client.get(DEPLOYMENTS, NAME, namespace)
            assert deployment["metadata"]["labels"]["mine"] == "kept"
            return bool(deployment["spec"]["replicas"] == 1)

        await eventually(repaired)

        versions = await settled(client, namespace)
        assert await settled(client, namespace) == versions, "a settled Workspace causes no writes"

        await client.delete(WORKSPACES, NAME, namespace)
        await eventually(lambda: gone(client, namespace, cloud), deadline=30.0)


async def test_a_workspace_asks_for_its_nodes_by_node_claims(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    await install(client)
    async with operator(control_plane.config, cloud, "nodeclaim"):
        await client.create(WORKSPACES, read_workspace(SAMPLE), namespace=namespace)
        await eventually(lambda: condition(client, namespace, "WorkspaceSucceeded"), deadline=30.0)
        labels = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": namespace}
        (claim,) = await client.list(NODE_CLAIMS, labels=labels)
        assert list(cloud.pools) == [claim.metadata.name]
        assert claim.status.node_name == (await client.get(WORKSPACES, NAME, namespace)).status.worker_nodes[0]
        assert not await client.list(MACHINES, labels=labels)
        await client.delete(WORKSPACES, NAME, namespace)
        await eventually(lambda: gone(client, namespace, cloud), deadline=30.0)
        assert not await client.list(NODE_CLAIMS, labels=labels)


@pytest.mark.parametrize(
    ("source", "resource"), [("machine", provisioner.MACHINES), ("nodeclaim", provisioner.NODE_CLAIMS)]
)
async def test_another_provisioner_may_make_the_nodes(
    control_plane: ControlPlane,
    client: Client,
    namespace: str,
    cloud: ArmEmulator,
    workloads: None,
    source: str,
    resource: Resource[Manifest],
) -> None:
    """The Workspace controller runs without the machine controller, beside one that speaks the same kinds."""
    await install(client)
    manager = Manager(control_plane.config, QUIET)
    workspace.setup(manager, {NODE_SOURCE: source})
    running = asyncio.create_task(manager.run())
    try:
        async with provisioner.another_provisioner(client, resource):
            await client.create(WORKSPACES, read_workspace(SAMPLE), namespace=namespace)
            await eventually(lambda: condition(client, namespace, "WorkspaceSucceeded"), deadline=30.0)
            labels = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": namespace}
            (claim,) = await client.list(resource, labels=labels)
            nodes = (await client.get(WORKSPACES, NAME, namespace)).status.worker_nodes
            assert list(nodes or ()) == [claim["status"]["nodeName"]]
            await client.delete(WORKSPACES, NAME, namespace)
            await eventually(lambda: gone(client, namespace, cloud), deadline=30.0)
            assert not await client.list(resource, labels=labels)
    finally:
        manager.stop()
        await running
    assert not cloud.requests


async def condition(client: Client, namespace: str, kind: str) -> bool:
    found = await client.get(WORKSPACES, NAME, namespace)
    return any(entry.type == kind and entry.status == "True" for entry in found.status.conditions or ())


async def settled(client: Client, namespace: str) -> list[str]:
    """Resource versions of what the operator writes, once they have stopped changing."""
    last: list[str] = []

    async def same() -> bool:
        nonlocal last
        objects = [
            (await client.get(WORKSPACES, NAME, namespace)).metadata.resource_version,
            *[item["metadata"]["resourceVersion"] for item in await client.list(DEPLOYMENTS, namespace)],
            *[item["metadata"]["resourceVersion"] for item in await client.list(SERVICES, namespace)],
        ]
        previous, last = last, [str(version) for version in objects]
        await asyncio.sleep(0.3)
        return previous == last

    await eventually(same)
    return last


async def gone(client: Client, namespace: str, cloud: ArmEmulator) -> bool:
    labels = {"kaito.sh/workspace": NAME, "kaito.sh/workspacenamespace": namespace}
    if cloud.pools or await client.list(MACHINES, labels=labels) or await client.list(NODES, labels=labels):
        return False
    return not await client.list(DEPLOYMENTS, namespace) and not [
        service for service in await client.list(SERVICES, namespace) if service["metadata"]["name"] == NAME
    ]
