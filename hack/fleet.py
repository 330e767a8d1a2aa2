"""A cluster, a cloud, and operators as processes, for the programs that put the machine controller to the test.

Every operator reaches the API server through a front of its own and the cloud with a token of its own, so that it is known
who has written what, and whether it held the lease.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kaito.api.machine import Machine
from kaito.api.nodeclaim import NodeClaim
from kaito.api.resources import MACHINES, NODE_CLAIMS
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.devcluster.apiserver.wire.requests import Query, RequestInfo
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, Site, build_nodes
from kaito.devcluster.operator import launch
from kaito.runtime import NODES, AlreadyExists, Client, Manifest, NotFound, Rest, RestConfig, RuntimeMetrics
from support.controlplane import of_server
from support.definitions import install
from support.front import Front
from support.nodes import join

LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD = 4.0, 3.0, 0.5
"""Seconds."""
NODE_CLAIM_PREFIX = "nc"
READS = ("get", "list", "watch")
SITE = Site(subscription="sub", resource_group="rg", cluster="aks")


@dataclass
class Lawfulness:
    """Who leads, by the lease writes that the API server has taken, and who has written without leading."""

    leader: str = ""
    renewed: float = 0.0
    writes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def lease_written(self, who: str, body: bytes) -> None:
        holder = json.loads(body).get("spec", {}).get("holderIdentity")
        self.leader, self.renewed = (who if holder else ""), time.monotonic()

    def wrote(self, who: str, what: str) -> None:
        self.writes[who] += 1
        age = time.monotonic() - self.renewed
        if who != self.leader or age > LEASE_DURATION:
            self.violations.append(f"{who}: {what} while {self.leader or 'nobody'} led, renewed {age:.2f} s ago")


class Watched(Front):
    """The way of one operator to the API server."""

    def __init__(self, upstream: RestConfig, who: str, law: Lawfulness) -> None:
        super().__init__(upstream)
        self._who = who
        self._law = law

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        info = RequestInfo.parse(method, path, Query.parse(query))
        lease = info.plural == "leases"
        if info.verb not in READS and not lease:
            self._law.wrote(self._who, f"{info.verb} {info.group_resource} {info.name}")
        async with super()._send(method, path, query, headers, body) as answer:
            if lease and info.verb not in READS and answer.status < 300:
                self._law.lease_written(self._who, body)
            yield answer


@dataclass
class Operator:
    name: str
    front: Watched
    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        arguments = [
            "--controllers=machine",
            "--leader-elect",
            "--leader-election-namespace=default",
            f"--lease-duration={LEASE_DURATION}",
            f"--renew-deadline={RENEW_DEADLINE}",
            f"--retry-period={RETRY_PERIOD}",
            "--metrics-bind-address=0",
            "--health-probe-bind-address=0",
            "--log-format=json",
        ]
        self.process = launch(arguments, self.environ, self.log)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def resident_mb(self) -> float:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1000 if found else 0.0


class _Lawful(ArmEmulator):
    """Knows the operators by their tokens."""

    law: Lawfulness

    async def _answer(self, request: Any) -> Any:
        if request.method in ("PUT", "DELETE") and not request.path.startswith("/emulator/"):
            who = request.headers.get("Authorization", "").removeprefix("Bearer ")
            self.law.wrote(who, f"{request.method} of agent pool {request.path.rpartition('/')[2]}")
        return await super()._answer(request)


class Fleet:
    """Ready to use between ``__aenter__`` and ``__aexit__``; operators are started by hand and killed at the end."""

    def __init__(self, folder: Path, options: ArmOptions, *, operators: int, environ: Mapping[str, str]) -> None:
        self.law = Lawfulness()
        self.operators: list[Operator] = []
        self._folder = folder
        self._count = operators
        self._environ = dict(environ)
        self._stack = AsyncExitStack()
        self.arm = _Lawful(options, on_pool_ready=self._join, on_pool_gone=self._leave)
        self.arm.law = self.law
        self.server = ApiServer(ApiServerOptions(bookmark_interval=5.0))
        self.client: Client

    async def __aenter__(self) -> Fleet:
        stack = self._stack
        await stack.enter_async_context(self.server)
        config = of_server(self.server)
        rest = Rest(config, RuntimeMetrics())
        stack.push_async_callback(rest.aclose)
        self.client = Client(rest)
        await install(self.client)
        await stack.enter_async_context(self.arm)
        for number in range(self._count):
            name = f"operator-{number}"
            front = Watched(config, name, self.law)
            await stack.enter_async_context(front)
            kubeconfig = self._folder / f"{name}.kubeconfig"
            kubeconfig.write_text(yaml.safe_dump(_kubeconfig(front.config.server)))
            operator = Operator(name, front, self._folder, self._environment(name, kubeconfig))
            self.operators.append(operator)
            stack.callback(operator.kill)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def _environment(self, name: str, kubeconfig: Path) -> dict[str, str]:
        site = self.arm.options.site
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "KUBECONFIG": str(kubeconfig),
            "AZURE_RESOURCE_MANAGER_ENDPOINT": self.arm.url,
            "ARM_EMULATOR_TOKEN": name,
            "ARM_SUBSCRIPTION_ID": site.subscription,
            "ARM_RESOURCE_GROUP": site.resource_group,
            "AZURE_CLUSTER_NAME": site.cluster,
            **self._environ,
        }

    @property
    def leader(self) -> Operator | None:
        return next((each for each in self.operators if each.name == self.law.leader and each.process), None)

    async def make(self, name: str) -> None:
        """A Machine, or a NodeClaim where ``name`` begins with ``nc``."""
        if name.startswith(NODE_CLAIM_PREFIX):
            await self.client.create(NODE_CLAIMS, NodeClaim.model_validate(node_claim_manifest(name)))
        else:
            await self.client.create(MACHINES, Machine.model_validate(machine_manifest(name)))

    async def delete(self, name: str) -> None:
        with suppress(NotFound):
            await self.client.delete(NODE_CLAIMS if name.startswith(NODE_CLAIM_PREFIX) else MACHINES, name)

    async def machines(self) -> list[Machine | NodeClaim]:
        """The claims of both kinds."""
        return [*await self.client.list(MACHINES), *await self.client.list(NODE_CLAIMS)]

    async def nodes(self) -> list[Manifest]:
        return await self.client.list(NODES)

    async def _join(self, pool: Pool) -> None:
        for node in build_nodes(pool):
            with suppress(AlreadyExists):
                await join(self.client, node)

    async def _leave(self, pool: Pool) -> None:
        for index in pool.instances:
            with suppress(NotFound):
                await self.client.delete(NODES, pool.node_name(index))


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fleet", "cluster": {"server": server}}],
        "users": [{"name": "fleet", "user": {}}],
        "contexts": [{"name": "fleet", "context": {"cluster": "fleet", "user": "fleet"}}],
        "current-context": "fleet",
    }


def machine_manifest(name: str) -> dict[str, Any]:
    sizes = ["Standard_NC6s_v3", "Standard_NC12s_v3"]
    return {
        "apiVersion": "karpenter.sh/v1alpha5",
        "kind": "Machine",
        "metadata": {"name": name, "labels": {"kaito.sh/workspace": "fleet", "kaito.sh/workspacenamespace": "default"}},
        "spec": {
            "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": sizes}],
            "resources": {"requests": {"storage": "50Gi"}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        },
    }


def node_claim_manifest(name: str) -> dict[str, Any]:
    machine = machine_manifest(name)
    spec = machine["spec"] | {"nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}}
    return machine | {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "spec": spec}


async def until(probe: Any, what: str, deadline: float) -> float:
    """Wait for ``probe`` to be true; the seconds that took. Raises TimeoutError that says ``what`` did not happen."""
    started = time.monotonic()
    while True:
        if await probe():
            return time.monotonic() - started
        if time.monotonic() - started > deadline:
            raise TimeoutError(f"{what}: not within {deadline:g} s")
        await asyncio.sleep(0.1)
