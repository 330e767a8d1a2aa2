"""The local cluster in one process: API server, cloud, controllers and kubelet, each talking to the others over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kaito.devcluster import kubelet, kubeproxy
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions, User
from kaito.devcluster.arm import UNINITIALIZED, ArmEmulator, ArmOptions, Pool, Site, build_nodes, joining
from kaito.devcluster.controllers import setup_all
from kaito.devcluster.kubelet import Timing
from kaito.devcluster.kubelet.host import ImageMap
from kaito.devcluster.operator import CLUSTER_NAME, LOCATION, RESOURCE_GROUP, SUBSCRIPTION
from kaito.devcluster.state import CLOUD_TOKEN
from kaito.runtime import (
    NODES,
    AlreadyExists,
    Client,
    Manager,
    ManagerOptions,
    Manifest,
    Material,
    NotFound,
    PatchType,
    RestConfig,
    StaticToken,
    TlsConfig,
    first_of,
    retry_on_conflict,
)

IDENTITY = User("system:kube-controller-manager", ("system:masters",))
STOP_TIMEOUT = 5.0
"""Seconds that reconciles in progress have to end when the cluster stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    port: int = 0
    """Of the API server; 0 takes a free one."""
    tls_folder: Path | None = None
    """Where the API server's CA and key are kept between runs; None makes new ones."""
    speed: float = 1.0
    """How many times faster than by default pods start and pools come and go."""
    workloads: bool = True
    """Whether workloads live: without, only deleting has its consequences, and there is no node."""
    images: ImageMap | None = None
    """Images whose containers run as processes of this machine; None for none, so that all only play their part."""
    cloud: ArmOptions = field(
        default_factory=lambda: ArmOptions(
            site=Site(
                subscription=SUBSCRIPTION, resource_group=RESOURCE_GROUP, cluster=CLUSTER_NAME, location=LOCATION
            ),
            token=CLOUD_TOKEN,
        )
    )


class ClusterFailed(Exception):
    """A part of the local cluster ended with an error, which is the cause."""


class Controllers:
    """The controllers and the kubelet, as clients of whatever API server ``config`` leads to, under its identity."""

    def __init__(self, config: RestConfig, options: ClusterOptions) -> None:
        self._options = options
        self.manager = Manager(
            config, ManagerOptions(metrics_address="0", health_address="0", grace_period=STOP_TIMEOUT)
        )
        setup_all(self.manager, config.tls.authority.read(), workloads=options.workloads)
        self.streaming: kubelet.Streaming | None = None
        if options.workloads:
            self.streaming = kubelet.setup(self.manager, Timing().faster(options.speed), options.images)
            kubeproxy.setup(self.manager)
        self._running: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        return self.manager.client

    async def start(self) -> None:
        """Return when they run and there is a node for ordinary pods. Raises ClusterFailed."""
        self._running = asyncio.create_task(self.manager.run(), name="local cluster controllers")
        await self.or_failure(self.manager.elected.wait())
        if self._options.workloads:
            with contextlib.suppress(AlreadyExists):
                await self.client.create(NODES, kubelet.system_node())

    async def or_failure(self, awaited: Coroutine[Any, Any, Any]) -> None:
        """Wait for ``awaited``, but not longer than the controllers run. Raises ClusterFailed."""
        assert self._running is not None, "the controllers have been started"
        await first_of(awaited, self._running)
        if self._running.done():
            raise ClusterFailed("the controllers of the local cluster have ended") from self._running.exception()

    async def stop(self) -> None:
        """Idempotent; an error of theirs was raised by ``or_failure``."""
        if self._running is not None:
            self.manager.stop()
            await asyncio.wait({self._running})


class LocalCluster:
    """``start`` may be called once; ``stop`` leaves no task, socket or file behind."""

    def __init__(self, options: ClusterOptions | None = None) -> None:
        self.options = options or ClusterOptions()
        self._token = secrets.token_urlsafe(32)
        self.server = ApiServer(
            ApiServerOptions(port=self.options.port, tls_folder=self.options.tls_folder, tokens={self._token: IDENTITY})
        )
        cloud, speed = self.options.cloud, self.options.speed
        self.cloud = ArmEmulator(
            replace(
                cloud,
                create_seconds=cloud.create_seconds / speed,
                delete_seconds=cloud.delete_seconds / speed,
            ),
            on_pool_ready=self._add_nodes,
            on_pool_gone=self._remove_nodes,
        )
        self._controllers: Controllers | None = None

    async def __aenter__(self) -> LocalCluster:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def kubeconfig(self) -> str:
        """YAML, as the administrator."""
        return yaml.safe_dump(self.server.kubeconfig(), sort_keys=False)

    @property
    def config(self) -> RestConfig:
        """How the cluster's own controllers reach the API server."""
        return RestConfig(
            server=self.server.url,
            credentials=StaticToken(self._token),
            tls=TlsConfig(authority=Material(data=self.server.ca_pem)),
            user_agent="kaito-local-cluster",
        )

    @property
    def controllers(self) -> Controllers:
        assert self._controllers is not None, "the cluster has been started"
        return self._controllers

    async def start(self) -> None:
        """Return when everything serves. Raises OSError for a port that is taken, ClusterFailed."""
        try:
            await self.server.start()
            self._controllers = Controllers(self.config, self.options)
            if (streaming := self._controllers.streaming) is not None:
                self.server.log_provider, self.server.attach_provider = streaming.logs, streaming.attach
            await self._controllers.start()
            await self.cloud.start()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Run until cancelled. Raises ClusterFailed if a part fails."""
        await self.controllers.or_failure(asyncio.Event().wait())

    async def stop(self) -> None:
        """Stop everything: first the cloud, then the controllers, then the API server. Idempotent."""
        await self.cloud.stop()
        if self._controllers is not None:
            await self._controllers.stop()
        await self.server.stop()

    # What becomes of agent pools

    async def _add_nodes(self, pool: Pool) -> None:
        """Each Node registers first, is named by the cloud then, and becomes ready: by its kubelet, where there is one."""
        client = self.controllers.client
        for node in build_nodes(pool):
            with contextlib.suppress(AlreadyExists):
                await client.create(NODES, joining(node))
            name = node["metadata"]["name"]

            async def initialize(name: str = name, node: Manifest = node) -> None:
                spec = (await client.get(NODES, name))["spec"]
                taints = [taint for taint in spec["taints"] if taint["key"] != UNINITIALIZED]
                named = {**spec, "providerID": node["spec"]["providerID"], "taints": taints}
                patch = [
                    {"op": "test", "path": "/spec", "value": spec},
                    {"op": "replace", "path": "/spec", "value": named},
                ]
                await client.patch(NODES, name, patch, kind=PatchType.JSON)

            with contextlib.suppress(NotFound):
                await retry_on_conflict(initialize)
                if self.controllers.streaming is None:
                    await client.patch(NODES, name, {"status": node["status"]}, subresource="status")

    async def _remove_nodes(self, pool: Pool) -> None:
        for index in pool.instances:
            with contextlib.suppress(NotFound):
                await self.controllers.client.delete(NODES, pool.node_name(index))
