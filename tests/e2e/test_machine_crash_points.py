"""The machine controller killed before and after every call that it makes to the cluster or to the cloud, from a Machine's
creation through the draining of its node to its end: the next process finishes what it began."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import pytest
import yaml

from controllers.machine.conftest import machine_manifest
from kaito.api.conditions import is_true
from kaito.api.machine import Machine
from kaito.api.resources import MACHINES
from kaito.devcluster.apiserver import ApiServer
from kaito.devcluster.apiserver.wire.requests import Query, RequestInfo
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, build_nodes
from kaito.devcluster.arm.errors import ArmError
from kaito.devcluster.operator import launch
from kaito.runtime import NODES, PODS, Client, NotFound, Rest, RuntimeMetrics
from support.controlplane import of_server
from support.definitions import install
from support.front import Front
from support.nodes import join
from support.waiting import eventually

NAME = "ws0123456ab"
CALLS, CALLS_TO_READY = 19, 9
"""At least as many as a Machine's life takes, and as it takes until it is Ready."""
POINTS = [(index, side, "goes on") for index in range(CALLS) for side in ("before", "after")] + [
    (index, side, "is deleted") for index in range(CALLS_TO_READY) for side in ("before", "after")
]


@dataclass
class Trap:
    """Lets calls pass until one of them; that one gets no answer, and is carried out only with ``after``."""

    index: int
    side: str
    armed: bool = True
    calls: list[str] = field(default_factory=list)
    sprung: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def around(self, call: str) -> AsyncIterator[None]:
        mine = self.armed and len(self.calls) == self.index
        if self.armed:
            self.calls.append(call)
        if mine and self.side == "before":
            await self._hold()
        try:
            yield
        except ArmError:
            if mine:
                await self._hold()
            raise
        if mine:
            await self._hold()

    async def _hold(self) -> None:
        """Until the process that waits for the answer is killed."""
        self.armed = False
        self.sprung.set()
        await asyncio.Event().wait()


class Way(Front):
    """To the API server."""

    trap: Trap

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        info = RequestInfo.parse(method, path, Query.parse(query))
        if info.verb in ("get", "list", "watch") or info.plural == "events":
            async with super()._send(method, path, query, headers, body) as answer:
                yield answer
            return
        resource = f"{info.plural}/{info.subresource}" if info.subresource else info.plural
        passed_on = super()._send(method, path, query, headers, body)
        async with self.trap.around(f"{info.verb} {resource}"), passed_on as answer:
            await answer.read()
            yield answer


class Cloud(ArmEmulator):
    trap: Trap

    async def _answer(self, request: Any) -> Any:
        if request.method == "GET" and "/agentPools/" not in request.path:
            return await super()._answer(request)
        async with self.trap.around(f"{request.method} agent pool"):
            return await super()._answer(request)


@dataclass
class World:
    client: Client
    cloud: Cloud
    trap: Trap
    environ: dict[str, str]
    folder: Path
    made: list[str]
    """Pools whose machines have joined."""
    process: Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--controllers=machine", "--metrics-bind-address=0", "--health-probe-bind-address=0"]
        self.process = launch(arguments, self.environ, self.folder / "operator.log")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
async def world(tmp_path: Path, index: int, side: str) -> AsyncIterator[World]:
    made: list[str] = []
    client: Client

    async def arrive(pool: Pool) -> None:
        made.append(pool.name)
        for node in build_nodes(pool):
            await join(client, node)

    async def leave(pool: Pool) -> None:
        for position in pool.instances:
            with suppress(NotFound):
                await client.delete(NODES, pool.node_name(position))

    trap = Trap(index, side)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ApiServer())
        config = of_server(server)
        rest = Rest(config, RuntimeMetrics())
        stack.push_async_callback(rest.aclose)
        client = Client(rest)
        await install(client)
        way = Way(config)
        cloud = Cloud(ArmOptions(create_seconds=0.2, delete_seconds=0.2), on_pool_ready=arrive, on_pool_gone=leave)
        way.trap = cloud.trap = trap
        await stack.enter_async_context(way)
        await stack.enter_async_context(cloud)
        kubeconfig = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": way.config.server}}
        context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "clusters": [cluster],
                    "users": [{"name": "c", "user": {}}],
                    "contexts": [context],
                    "current-context": "c",
                }
            )
        )
        site = cloud.options.site
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(tmp_path),
            "KUBECONFIG": str(kubeconfig),
            "AZURE_RESOURCE_MANAGER_ENDPOINT": cloud.url,
            "ARM_SUBSCRIPTION_ID": site.subscription,
            "ARM_RESOURCE_GROUP": site.resource_group,
            "AZURE_CLUSTER_NAME": site.cluster,
            "KAITO_POLL_INTERVAL_SECONDS": "0.1",
        }
        it = World(client, cloud, trap, environ, tmp_path, made)
        stack.callback(it.kill)
        yield it


@pytest.mark.parametrize(("index", "side", "then"), POINTS)
async def test_a_killed_controller_leaves_nothing_half_done(world: World, index: int, side: str, then: str) -> None:
    await world.client.create(MACHINES, Machine.model_validate(machine_manifest(NAME)))
    world.start()
    await until_trapped(world, ready(world))
    if not world.trap.sprung.is_set():
        await a_pod(world)
        await world.client.delete(MACHINES, NAME)
        await until_trapped(world, gone(world))
        if len(world.trap.calls) > index:
            # The trapped call itself was what the Machine waited for; it springs when its answer is there.
            async with asyncio.timeout(60.0):
                await world.trap.sprung.wait()
        if not world.trap.sprung.is_set():
            assert index >= len(world.trap.calls) > CALLS_TO_READY, world.trap.calls
    elif then == "goes on":
        await again(world)
        await eventually(lambda: ready(world)(), deadline=60.0)
        assert (list(world.cloud.pools), world.made) == ([NAME], [NAME])
        await a_pod(world)
        await world.client.delete(MACHINES, NAME)
    else:
        await world.client.delete(MACHINES, NAME)
    if world.trap.sprung.is_set():
        await again(world)
    await eventually(lambda: gone(world)(), deadline=60.0)
    assert not world.cloud.pools
    assert len(world.made) <= 1


async def again(world: World) -> None:
    world.kill()
    world.start()


async def until_trapped(world: World, reached: Any) -> None:
    """Wait for ``reached``, or for the trap to spring."""

    async def probe() -> bool:
        return world.trap.sprung.is_set() or await reached()

    await eventually(probe, deadline=60.0)


def ready(world: World) -> Any:
    async def probe() -> bool:
        return is_true((await world.client.get(MACHINES, NAME)).status.conditions, "Ready")

    return probe


def gone(world: World) -> Any:
    async def probe() -> bool:
        return not await world.client.list(MACHINES) and not await world.client.list(NODES) and not world.cloud.pools

    return probe


async def a_pod(world: World) -> None:
    """One that has to leave the node."""
    (node,) = await world.client.list(NODES)
    spec = {
        "nodeName": node["metadata"]["name"],
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "registry.example/x:1"}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    await world.client.create(PODS, pod)
