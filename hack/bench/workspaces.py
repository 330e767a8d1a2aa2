"""Many Workspaces applied at once on the local cluster: until all are Ready, and what it costs the operator.

The operator is a process of its own; API server, cloud, controllers and kubelet are the local cluster's, in this process.
Then the Workspace controller is started anew beside the Workspaces that are Ready, which must cost no write. Prints the
figures and ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from kaito.api.conditions import is_true  # noqa: E402 - this file is run as a script
from kaito.api.defaulting import read_workspace  # noqa: E402
from kaito.api.resources import WORKSPACES  # noqa: E402
from kaito.devcluster.cluster import ClusterOptions, LocalCluster  # noqa: E402
from kaito.devcluster.operator import CLUSTER_NAME, RESOURCE_GROUP, SUBSCRIPTION  # noqa: E402
from kaito.devcluster.state import CLOUD_TOKEN  # noqa: E402
from kaito.runtime import CUSTOM_RESOURCE_DEFINITIONS, Client, Rest, RuntimeMetrics  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


class Operator:
    """``kaito manager`` as a process."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self, controllers: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(self._cluster.kubeconfig)
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "AZURE_RESOURCE_MANAGER_ENDPOINT": self._cluster.cloud.url,
            "ARM_EMULATOR_TOKEN": CLOUD_TOKEN,
            "ARM_SUBSCRIPTION_ID": SUBSCRIPTION,
            "ARM_RESOURCE_GROUP": RESOURCE_GROUP,
            "AZURE_CLUSTER_NAME": CLUSTER_NAME,
            "KAITO_POLL_INTERVAL_SECONDS": "1",
        }
        addresses = [f"--metrics-bind-address=127.0.0.1:{self._port}", "--health-probe-bind-address=0"]
        with (self._folder / "operator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "kaito",
                    "manager",
                    f"--controllers={controllers}",
                    f"--kubeconfig={kubeconfig}",
                    *addresses,
                ],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def requests(self) -> tuple[float, float]:
        """Reads and writes so far."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self._port}/metrics") as answer,
        ):
            text = await answer.text()
        reads = writes = 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "rest_client_requests_total":
                    if sample.labels["method"] == "GET":
                        reads += sample.value
                    else:
                        writes += sample.value
        return reads, writes

    async def ready(self) -> None:
        while True:
            try:
                await self.requests()
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


def manifest(number: int) -> dict[str, object]:
    return {
        "metadata": {"name": f"w{number}", "namespace": "default"},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }


async def measure(count: int, folder: Path, limit: float) -> int:
    async with LocalCluster(ClusterOptions(speed=20.0)) as cluster:
        rest = Rest(cluster.config, RuntimeMetrics())
        client = Client(rest)
        operator = Operator(cluster, folder)
        try:
            await _install(client)
            operator.start("workspace,machine")
            await operator.ready()
            await asyncio.sleep(2.0)
            cpu, (reads, writes) = operator.cpu(), await operator.requests()
            started = time.monotonic()
            for number in range(count):
                await client.create(WORKSPACES, read_workspace(manifest(number)))
            took = await _all_ready(client, count, started, limit)
            cpu, after = operator.cpu() - cpu, await operator.requests()
            print(f"{count} Workspaces at once: all Ready after {took:.1f} s")
            print(f"CPU of the operator: {cpu:.1f} s, {cpu / count * 1000:.1f} ms for each")
            print(
                f"requests for each: {(after[0] - reads) / count:.1f} reads, {(after[1] - writes) / count:.1f} writes"
            )
            await asyncio.sleep(12.0)  # words that were held back are written
            operator.stop()
            operator.start("workspace")
            await operator.ready()
            await asyncio.sleep(10.0 + count / 100)
            _, writes = await operator.requests()
            print(
                f"Workspace controller started anew beside {count} that are Ready: "
                f"{operator.cpu():.1f} s of CPU, {writes:.0f} writes"
            )
            return 0 if writes == 0 else 1
        finally:
            operator.stop()
            await rest.aclose()


async def _install(client: Client) -> None:
    import yaml

    for path in sorted((ROOT / "config" / "crd").glob("*_*.yaml")):
        await client.create(CUSTOM_RESOURCE_DEFINITIONS, yaml.safe_load(path.read_text()))
    await asyncio.sleep(1.0)


async def _all_ready(client: Client, count: int, started: float, limit: float) -> float:
    while True:
        found = await client.list(WORKSPACES)
        ready = sum(is_true(workspace.status.conditions, "WorkspaceSucceeded") for workspace in found)
        took = time.monotonic() - started
        if ready == count:
            return took
        if took > limit:
            sys.exit(f"{ready} of {count} Workspaces are Ready after {took:.0f} s")
        await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="Workspaces; default: 500")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds until all have to be Ready")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as folder:
        sys.exit(asyncio.run(measure(arguments.count, Path(folder), arguments.limit)))


if __name__ == "__main__":
    main()
