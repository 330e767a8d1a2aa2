"""The operator killed at every point where something has just been done, or is about to be: it converges all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.defaulting import read_workspace
from kaito.api.resources import MACHINES, WORKSPACES
from kaito.devcluster.apiserver import Fault
from kaito.devcluster.arm import Fault as CloudFault
from kaito.devcluster.cluster import ClusterOptions, LocalCluster
from kaito.devcluster.operator import launch, mount_service_account, pod_environment
from kaito.devcluster.state import Running, StateFolder
from kaito.runtime import DEPLOYMENTS, NODES, SERVICES, Client, NotFound, Rest, RuntimeMetrics
from support.cluster import NAMESPACE, SERVICE_ACCOUNT
from support.controlplane import of_server
from support.kubectl import Kubectl, installed
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
HOLD = 30.0
"""Seconds that a request is held, so that the operator is killed while it waits for the answer."""


@dataclass
class World:
    cluster: LocalCluster
    client: Client
    folder: StateFolder
    environ: dict[str, str]

    def operator(self) -> _Process:
        arguments = ["--metrics-bind-address=0", "--health-probe-bind-address=0", "--log-format=json"]
        return _Process(launch(arguments, self.environ, self.folder.operator_log))


class _Process:
    def __init__(self, process: Any) -> None:
        self._process = process

    async def kill(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


@asynccontextmanager
async def world(folder: StateFolder) -> AsyncIterator[World]:
    folder.create()
    async with LocalCluster(ClusterOptions(speed=4.0)) as cluster:
        folder.write_kubeconfig(cluster.kubeconfig)
        kubectl = Kubectl(installed()["newest"], folder.kubeconfig, folder.path)
        await asyncio.to_thread(kubectl, "apply", "-k", str(ROOT / "config" / "overlays" / "local"))
        token = cluster.server.issue_token(NAMESPACE, SERVICE_ACCOUNT)
        mount_service_account(folder.service_account, folder, token, NAMESPACE)
        running = Running(0, cluster.server.url, cluster.cloud.url, "")
        rest = Rest(of_server(cluster.server), RuntimeMetrics())
        try:
            yield World(cluster, Client(rest), folder, pod_environment(running, folder.service_account))
        finally:
            await rest.aclose()


def _api_fault(world: World, verb: str, resource: str, **what: Any) -> Fault:
    """The cloud and kubelets write to the same objects, undisturbed."""
    return world.cluster.server.faults.add(Fault(verb, resource, user=OPERATOR, **what))


def arm(point: str, world: World) -> Any:
    """Lay the trap for ``point``; returns what tells whether it has sprung."""
    api, cloud = partial(_api_fault, world), world.cluster.cloud.faults
    match point:
        case "before the Machine is created":
            fault: Any = api("create", "machines.karpenter.sh", delay=HOLD, drop="before")
        case "after the Machine is created":
            fault = api("create", "machines.karpenter.sh", drop="after")
        case "before the agent pool is asked for":
            fault = cloud.add(CloudFault("PUT", delay=HOLD, drop="before"))
        case "after the agent pool is asked for":
            fault = cloud.add(CloudFault("PUT", drop="after"))
        case "while the agent pool is creating":
            return lambda: any(pool.state == "Creating" for pool in world.cluster.cloud.pools.values())
        case "before the Node is registered":
            fault = api("patch", "nodes", delay=HOLD, drop="before")
        case "before the Deployment is created":
            fault = api("create", "deployments.apps", delay=HOLD, drop="before")
        case _:
            raise AssertionError(point)
    return lambda: fault.hits


POINTS = [
    "before the Machine is created",
    "after the Machine is created",
    "before the agent pool is asked for",
    "after the agent pool is asked for",
    "while the agent pool is creating",
    "before the Node is registered",
    "before the Deployment is created",
]


@pytest.mark.parametrize("point", POINTS)
async def test_a_killed_operator_leaves_one_machine_and_one_pool(point: str, tmp_path: Path) -> None:
    async with world(StateFolder(tmp_path / "state")) as it:
        sprung = arm(point, it)
        body = yaml.safe_load(SAMPLE.read_text())
        first = it.operator()
        try:
            await it.client.create(WORKSPACES, read_workspace(body), namespace="default")
            await eventually(sprung, deadline=60.0)
        finally:
            await first.kill()
        it.cluster.server.faults.clear()
        it.cluster.cloud.faults.clear()

        second = it.operator()
        try:
            await eventually(lambda: succeeded(it.client), deadline=60.0)
            machines = await it.client.list(MACHINES)
            pools = list(it.cluster.cloud.pools)
            assert [machine.metadata.name for machine in machines] == pools
            assert len(pools) == 1
            created = [request for request in it.cluster.cloud.requests if request.method == "PUT"]
            assert {request.path.rpartition("/")[2] for request in created} == set(pools)
            nodes = await it.client.list(NODES, labels={"kaito.sh/workspace": body["metadata"]["name"]})
            assert len(nodes) == 1
            assert len(await it.client.list(DEPLOYMENTS, "default")) == 1

            await it.client.delete(WORKSPACES, body["metadata"]["name"], "default")
            await eventually(lambda: gone(it, body["metadata"]["name"]), deadline=60.0)
        finally:
            await second.kill()
        assert "forbidden" not in it.folder.operator_log.read_text()


async def succeeded(client: Client) -> bool:
    (workspace,) = await client.list(WORKSPACES)
    return any(
        condition.type == "WorkspaceSucceeded" and condition.status == "True"
        for condition in workspace.status.conditions or ()
    )


async def gone(it: World, name: str) -> bool:
    if it.cluster.cloud.pools or await it.client.list(MACHINES):
        return False
    for resource in (DEPLOYMENTS, SERVICES):
        try:
            await it.client.get(resource, name, "default")
        except NotFound:
            continue
        return False
    return not await it.client.list(NODES, labels={"kaito.sh/workspace": name})
