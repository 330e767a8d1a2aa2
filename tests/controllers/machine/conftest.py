"""The Machine controller between an API server and an emulated Azure, whose machines join the cluster as Nodes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from kaito.api.machine import Machine
from kaito.api.meta import Object
from kaito.api.nodeclaim import NodeClaim
from kaito.api.resources import MACHINES, NODE_CLAIMS
from kaito.controllers.machine import add
from kaito.controllers.machine.settings import Settings
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, build_nodes
from kaito.provisioner import CloudProvider, load_provider
from kaito.runtime import (
    EVENTS,
    NODES,
    PODS,
    Client,
    Manager,
    ManagerOptions,
    Manifest,
    NotFound,
    Resource,
    Rest,
    RestConfig,
    RuntimeMetrics,
)
from support.controlplane import of_server
from support.definitions import install
from support.nodes import join
from support.waiting import eventually

QUICK = Settings(
    poll_interval=0.02,
    registration_ttl=60.0,
    retry_min=0.05,
    retry_max=0.05,
    drain_interval=0.05,
    garbage_interval=3600.0,
    garbage_grace=0.0,
)


class World:
    """An API server, a cloud, and as many runs of the controller as a test starts."""

    def __init__(self, config: RestConfig, client: Client, arm: ArmEmulator) -> None:
        self.config = config
        """As whom the controller runs."""
        self.client = client
        self.arm = arm
        self.settings = QUICK
        self.resource: Resource[Any] = MACHINES
        """The kind of claim that the test is about."""
        self.name = f"ws{secrets.token_hex(4)}"
        self.change_node: Callable[[Manifest], None] = lambda node: None
        """What is different about the next Nodes."""
        self.made_pods: list[str] = []
        self.other_nodes: list[str] = []
        """Nodes that are no machine's of the test."""

    # The cloud's side

    def environ(self) -> dict[str, str]:
        site = self.arm.options.site
        return {
            "AZURE_RESOURCE_MANAGER_ENDPOINT": self.arm.url,
            "ARM_SUBSCRIPTION_ID": site.subscription,
            "ARM_RESOURCE_GROUP": site.resource_group,
            "AZURE_CLUSTER_NAME": site.cluster,
        }

    async def join(self, pool: Pool) -> None:
        for node in build_nodes(pool):
            self.change_node(node)
            await join(self.client, node)

    async def leave(self, pool: Pool) -> None:
        for index in pool.instances:
            try:
                await self.client.delete(NODES, pool.node_name(index))
            except NotFound:
                continue

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.arm.requests)

    @property
    def pools(self) -> list[str]:
        return sorted(self.arm.pools)

    # The cluster's side

    async def make(self, name: str = "", **changes: Any) -> str:
        """A claim as a Workspace makes it; ``changes`` go into its spec, but ``metadata`` beside it."""
        build = machine_manifest if self.resource is MACHINES else node_claim_manifest
        manifest = build(name or self.name)
        manifest["metadata"] |= changes.pop("metadata", {})
        manifest["spec"] |= changes
        model: type[Object] = Machine if self.resource is MACHINES else NodeClaim
        await self.client.create(self.resource, model.model_validate(manifest))
        return name or self.name

    async def machine(self, name: str = "") -> Any:
        return await self.client.get(self.resource, name or self.name)

    async def delete(self, name: str = "") -> None:
        await self.client.delete(self.resource, name or self.name)

    async def condition(self, type_: str) -> tuple[str, str, str]:
        conditions = (await self.machine()).status.conditions or ()
        found = next((entry for entry in conditions if entry.type == type_), None)
        return (found.status, found.reason or "", found.message or "") if found else ("", "", "")

    async def becomes(self, type_: str, status: str, reason: str = "") -> str:
        """The message of the condition, once it is so."""

        async def reached() -> bool:
            assert (await self.condition(type_))[:2] == (status, reason)
            return True

        await eventually(reached)
        return (await self.condition(type_))[2]

    async def ready(self) -> Any:
        await self.becomes("Ready", "True", "" if self.resource is MACHINES else "Ready")
        return await self.machine()

    async def gone(self, name: str = "") -> None:
        """The Machine, its pool and its Nodes."""

        async def probe() -> bool:
            try:
                await self.machine(name)
            except NotFound:
                return True
            return False

        await eventually(probe)
        assert (name or self.name) not in self.arm.pools
        assert await self.nodes(name) == []

    async def nodes(self, name: str = "") -> list[Manifest]:
        return await self.client.list(NODES, labels={"agentpool": name or self.name})

    async def node(self) -> Manifest:
        (node,) = await self.nodes()
        return node

    async def pod(self, name: str, node: str | None, **spec: Any) -> str:
        """A pod on that node; ``spec`` goes into its spec, but ``metadata`` beside it. Its full name, which tells it from
        those of other tests."""
        full = f"{self.name}-{name}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": full, "namespace": "default", "labels": {"test": full}} | spec.pop("metadata", {}),
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/x:1"}], **spec},
        }
        await self.client.create(PODS, pod)
        self.made_pods.append(full)
        return full

    async def pods(self) -> set[str]:
        """Names, as the test gave them, of its pods that are there and not on their way out."""
        found = await self.client.list(PODS, "default")
        prefix = f"{self.name}-"
        return {
            pod["metadata"]["name"].removeprefix(prefix)
            for pod in found
            if pod["metadata"]["name"].startswith(prefix) and not pod["metadata"].get("deletionTimestamp")
        }

    async def events(self) -> list[tuple[str, str]]:
        """Reason and note of the Machine's Events, oldest first."""
        events = await self.client.list(EVENTS, "default")
        mine = [event for event in events if event["regarding"]["name"] == self.name]
        return [(event["reason"], event["note"]) for event in sorted(mine, key=lambda event: str(event["eventTime"]))]

    async def told(self, reason: str) -> str:
        """The note of the first Event with that reason."""

        async def probe() -> str:
            return next((note or "-" for found, note in await self.events() if found == reason), "")

        return await eventually(probe)

    # The controller

    @asynccontextmanager
    async def running(
        self, wrap: Callable[[CloudProvider], CloudProvider] = lambda provider: provider, *, patience: float = 5.0
    ) -> AsyncIterator[Manager]:
        """The controller, until the block ends; without ``patience`` (seconds) it is cut off wherever it is."""
        options = ManagerOptions(metrics_address="0", health_address="0", grace_period=patience)
        manager = Manager(self.config, options)
        add(manager, wrap(load_provider("aks", self.environ())), self.settings)
        task = asyncio.create_task(manager.run(), name="manager under test")
        started = asyncio.create_task(manager.elected.wait())
        try:
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield manager
        finally:
            started.cancel()
            manager.stop()
            await task


def node_claim_manifest(name: str) -> dict[str, Any]:
    """As version 0.12 of the Workspace operator makes them."""
    requirements = {
        "karpenter.sh/nodepool": "kaito",
        "node.kubernetes.io/instance-type": "Standard_NC6s_v3",
        "kubernetes.io/os": "linux",
        "karpenter.azure.com/sku-name": "Standard_NC6s_v3",
    }
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": name,
            "labels": {
                "karpenter.sh/nodepool": "kaito",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "default",
            },
            "annotations": {"karpenter.sh/do-not-disrupt": "true", "kaito.sh/node-image-family": "ubuntu"},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [{"key": key, "operator": "In", "values": [value]} for key, value in requirements.items()],
            "resources": {"requests": {"storage": "50Gi"}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
    }


def machine_manifest(name: str) -> dict[str, Any]:
    requirements = {
        "node.kubernetes.io/instance-type": "Standard_NC6s_v3",
        "karpenter.sh/provisioner-name": "default",
        "kaito.sh/machine-type": "gpu",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
    }
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {
            "name": name,
            "labels": {
                "apps": "phi-3",
                "karpenter.sh/provisioner-name": "default",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "default",
            },
        },
        "spec": {
            "machineTemplateRef": {"name": name},
            "requirements": [{"key": key, "operator": "In", "values": [value]} for key, value in requirements.items()],
            "resources": {"requests": {"storage": "50Gi"}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
    }


@pytest.fixture
async def config(external_config: RestConfig | None) -> AsyncIterator[RestConfig]:
    if external_config is not None:
        yield external_config
        return
    async with ApiServer(ApiServerOptions(bookmark_interval=0.2)) as server:
        yield of_server(server)


@pytest.fixture
def arm_options() -> ArmOptions:
    """Override to start the emulator differently."""
    return ArmOptions(create_seconds=0.05, delete_seconds=0.05)


@pytest.fixture
async def world(config: RestConfig, arm_options: ArmOptions) -> AsyncIterator[World]:
    rest = Rest(config, RuntimeMetrics())
    client = Client(rest)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(rest.aclose)
        await install(client)
        made: World
        arm = ArmEmulator(
            arm_options, on_pool_ready=lambda pool: made.join(pool), on_pool_gone=lambda pool: made.leave(pool)
        )
        made = World(config, client, arm)
        await stack.enter_async_context(arm)
        yield made
        await clean_up(made)


async def clean_up(world: World) -> None:
    """Leave nothing of this test on a server that outlives it."""
    for pod in world.made_pods:
        with suppress(NotFound):
            await world.client.delete(PODS, pod, "default", grace_period=0)
    for node in world.other_nodes:
        with suppress(NotFound):
            await world.client.delete(NODES, node)
    bare = {"metadata": {"finalizers": None}}
    for name in {world.name, *world.arm.pools}:
        for resource, names in (
            (MACHINES, [name]),
            (NODE_CLAIMS, [name]),
            (NODES, [node["metadata"]["name"] for node in await world.nodes(name)]),
        ):
            for each in names:
                try:
                    await world.client.patch(resource, each, bare)
                    await world.client.delete(resource, each)
                except NotFound:
                    continue
