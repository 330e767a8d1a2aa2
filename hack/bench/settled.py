"""The operator with thousands of Workspaces that have all they asked for: what a restart costs, and what one more look does.

Each run is a process of its own, as in a cluster, against the API server of the local cluster in another one. Run as
``python -m hack.bench.settled KUBECONFIG WORKSPACES``: one run of the operator, which says on its standard output, as JSON,
what it has measured.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from kaito.api.resources import WORKSPACES
from kaito.api.workspace import Workspace
from kaito.runtime import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    NODES,
    Client,
    Controller,
    ControllerRun,
    ElectionConfig,
    Key,
    Manager,
    ManagerOptions,
    Manifest,
    Rest,
    RuntimeMetrics,
    configure_logging,
    default_identity,
    load_config,
)

ROOT = Path(__file__).resolve().parents[2]
NODE_COUNT = 1_000
NAMESPACE = "default"
WRITERS = 16
QUIET = 3.0
"""Seconds without a reconcile after which everything counts as looked at."""
REPEATS = 20
"""Changes of nodes, the cheapest of which counts: the others met with something else."""


@dataclass(frozen=True)
class Run:
    """What one process of the operator has seen. Seconds, unless named otherwise."""

    looked_at: float
    """From the lease to the last first look at a Workspace."""
    reconciles: int
    writes: int
    """Requests that change something, but for the lease and events."""
    longest_block: float
    """Upper bound of the bucket that the longest delay of the event loop fell into."""
    kept: bool
    """Whether the lease was never lost."""
    look: float
    """CPU of one more look at a Workspace in which nothing has changed."""
    node_change: float
    """CPU of a change of a Node that matters, beyond the looks that it leads to."""


def node(number: int) -> Manifest:
    """A GPU node of 12 KB, as a cloud has them: most of it is images."""
    images = [
        {
            "names": [f"mcr.microsoft.com/aks/image-{i}@sha256:{'a' * 64}", f"mcr.microsoft.com/aks/image-{i}:v1"],
            "sizeBytes": 1,
        }
        for i in range(50)
    ]
    gpus = {"nvidia.com/gpu": "1", "cpu": "6", "memory": "110Gi", "pods": "110"}
    labels = {"apps": f"w{number}", "node.kubernetes.io/instance-type": "Standard_NC6s_v3"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": labels | {f"example.com/l{i}": "v" * 20 for i in range(20)}},
        "status": {
            "capacity": gpus,
            "allocatable": gpus,
            "images": images,
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                *(
                    {"type": f"{kind}Pressure", "status": "False", "message": "m" * 60}
                    for kind in ("Memory", "Disk", "PID")
                ),
            ],
        },
    }


def workspace(number: int) -> Workspace:
    return Workspace.model_validate(
        {
            "metadata": {"name": f"w{number}", "namespace": NAMESPACE},
            "resource": {
                "instanceType": "Standard_NC6s_v3",
                "labelSelector": {"matchLabels": {"apps": f"w{number}"}},
            },
            "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
        }
    )


@asynccontextmanager
async def connected(kubeconfig: str) -> AsyncIterator[Client]:
    rest = Rest(load_config(kubeconfig), RuntimeMetrics())
    try:
        yield Client(rest)
    finally:
        await rest.aclose()


async def install(client: Client) -> None:
    import yaml

    for path in sorted((ROOT / "config" / "crd").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        if document["kind"] == "CustomResourceDefinition":
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, document)


async def load(kubeconfig: str, count: int) -> None:
    """The objects that users and the cloud have made: ``count`` Workspaces, a thousand of which have a Node."""
    async with connected(kubeconfig) as client:
        await install(client)

        async def make(numbers: Any) -> None:
            for number in numbers:
                if number < NODE_COUNT:
                    await client.create(NODES, node(number))
                await client.create(WORKSPACES, workspace(number), namespace=NAMESPACE)

        numbers = iter(range(count))
        await asyncio.gather(*(make(numbers) for _ in range(WRITERS)))


async def serve_models(kubeconfig: str) -> None:
    """Every Deployment has its replicas: what the cluster's controllers would say in the end."""
    async with connected(kubeconfig) as client:
        found = iter(await client.list(DEPLOYMENTS, NAMESPACE))

        async def ready() -> None:
            for item in found:
                meta = item["metadata"]
                status = {
                    "observedGeneration": meta["generation"],
                    **dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), 1),
                }
                await client.patch(
                    DEPLOYMENTS, meta["name"], {"status": status}, namespace=NAMESPACE, subresource="status"
                )

        await asyncio.gather(*(ready() for _ in range(WRITERS)))


class Operator:
    """The Workspace controller in a manager with default election settings."""

    def __init__(self, kubeconfig: str) -> None:
        from kaito.controllers.workspace import setup

        election = ElectionConfig(NAMESPACE, "bench", default_identity())
        options = ManagerOptions(metrics_address="0", health_address="0", election=election, own_process=True)
        self.manager = Manager(load_config(kubeconfig), options)
        self.runs: list[ControllerRun] = []
        add = self.manager.add

        def remembered(controller: Controller) -> ControllerRun:
            self.runs.append(add(controller))
            return self.runs[-1]

        self.manager.add = remembered  # type: ignore[method-assign]
        setup(self.manager, {})

    def value(self, name: str, **labels: str) -> float:
        found: float | None = self.manager.metrics.get_sample_value(name, labels)
        return 0.0 if found is None else float(found)

    def reconciles(self) -> float:
        results = ("success", "requeue_after", "error")
        return sum(
            (self.value("controller_runtime_reconcile_total", controller="workspace", result=each) for each in results),
            0.0,
        )

    def writes(self) -> float:
        return sum(
            float(sample.value)
            for metric in self.manager.metrics.collect()
            if metric.name == "rest_client_requests"
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.labels["method"] in ("POST", "PATCH", "DELETE")
        )

    def longest_block(self) -> float:
        buckets = {
            float(sample.labels["le"]): sample.value
            for metric in self.manager.metrics.collect()
            if metric.name == "kaito_runtime_event_loop_delay_seconds"
            for sample in metric.samples
            if sample.name.endswith("_bucket")
        }
        total = max(buckets.values(), default=0.0)
        return min((bound for bound, count in buckets.items() if count == total), default=0.0)

    async def quiet(self, least: float, running: asyncio.Task[None]) -> float:
        """Until nothing was reconciled for a while; when that began."""
        seen, since = -1.0, time.monotonic()
        while not running.done() and (seen < least or time.monotonic() - since < QUIET):
            await asyncio.sleep(0.1)
            if (now := self.reconciles()) != seen:
                seen, since = now, time.monotonic()
        return since

    async def cpu_of(self, act: Any, running: asyncio.Task[None]) -> tuple[float, float]:
        """CPU seconds, and reconciles, that ``act`` leads to."""
        before, began = self.reconciles(), time.process_time()
        idle = time.process_time()
        await act()
        seen = -1.0
        while seen != (now := self.reconciles()):
            seen, idle = now, time.process_time()
            await asyncio.sleep(0.2)
        return idle - began, self.reconciles() - before

    def change_node(self, number: int) -> float:
        """CPU of telling the process of a change of a Node that matters, up to the keys that it queues."""
        (informer,) = self.manager.cache.informers(NODES)
        stored = informer.lister(lambda: None).stored(f"node-{number}")
        assert stored is not None
        changed = stored.decode()
        changed["metadata"]["labels"]["example.com/changed"] = "now"
        changed["metadata"]["resourceVersion"] = str(stored.revision + 10**9)
        data = json.dumps(changed).encode()
        began = time.process_time()
        self.manager.cache.written(NODES, data)
        return time.process_time() - began

    async def measure(self, count: int) -> Run:
        running = asyncio.create_task(self.manager.run())
        elected = asyncio.create_task(self.manager.elected.wait())
        await asyncio.wait({running, elected}, return_when=asyncio.FIRST_COMPLETED)
        began = time.monotonic()
        ended = await self.quiet(count, running)
        reconciles, writes, block = self.reconciles(), self.writes(), self.longest_block()
        run = next(run for run in self.runs if run.controller.name == "workspace")
        names = [Key(NAMESPACE, f"w{number}") for number in range(count)]

        async def look() -> None:
            for key in names:
                run.enqueue(key)

        cpu, looks = await self.cpu_of(look, running)
        each = cpu / max(1.0, looks)
        node_cpu = min(self.change_node(number) for number in range(REPEATS))
        kept = not running.done()
        self.manager.stop()
        await asyncio.wait([running])
        if not kept:
            running.result()
        return Run(ended - began, int(reconciles), int(writes), block, kept, each, node_cpu)


async def operate(kubeconfig: str, count: int) -> Run:
    return await Operator(kubeconfig).measure(count)


def run(kubeconfig: str, count: int) -> Run:
    """One run of the operator in a process of its own. Raises CalledProcessError where it ends with an error."""
    command = [sys.executable, "-m", "hack.bench.settled", kubeconfig, str(count)]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    said: Mapping[str, Any] = json.loads(output.splitlines()[-1])
    return Run(**said)


def settle(kubeconfig: str, count: int) -> None:
    """Bring ``count`` Workspaces to where nothing is left to do."""
    asyncio.run(load(kubeconfig, count))
    run(kubeconfig, count)
    asyncio.run(serve_models(kubeconfig))
    run(kubeconfig, count)


if __name__ == "__main__":
    configure_logging("error")
    print(json.dumps(asdict(uvloop.run(operate(sys.argv[1], int(sys.argv[2]))))))
