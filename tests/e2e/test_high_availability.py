"""Replicas of the operator: one leads, the next takes over, and none writes that does not lead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from kaito.api.defaulting import read_workspace
from kaito.api.resources import WORKSPACES
from kaito.api.workspace import Workspace
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.devcluster.operator import launch
from kaito.devcluster.process import end
from kaito.runtime import LEASES, Client, Rest, RuntimeMetrics, parse_time
from support.cluster import DevCluster, Operator, dev_cluster, until
from support.controlplane import of_server
from support.definitions import install
from support.proxy import Proxy
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"
NAME = "workspace-phi-3-mini"
LEASE = "kaito-machine-workspace"
LEASE_DURATION, RETRY_PERIOD = 15.0, 2.0


def test_when_the_leader_is_killed_the_other_takes_over_in_time(tmp_path: Path) -> None:
    with dev_cluster(tmp_path) as cluster:
        cluster.install(ROOT / "config" / "overlays" / "local")
        with (
            cluster.operator(tmp_path, name="first") as first,
            cluster.operator(tmp_path, name="second") as second,
        ):
            first.wait_ready()
            second.wait_ready()
            until(lambda: first.leads() or second.leads(), "one leads")
            leader, follower = (first, second) if first.leads() else (second, first)
            assert not follower.leads()

            def lease(field: str) -> str:
                return str(cluster.kubectl.json("get", "lease", LEASE, "-n", "kaito-system")["spec"][field])

            # The worst moment: the lease has just been renewed.
            renewed = lease("renewTime")
            until(lambda: lease("renewTime") != renewed, "the leader renews its lease")
            leader.kill()
            killed = time.time()
            cluster.kubectl("apply", "-f", str(SAMPLE))
            until(follower.leads, "the other leads", deadline=40.0)
            assert parse_time(lease("acquireTime")).timestamp() - killed <= LEASE_DURATION + RETRY_PERIOD
            cluster.kubectl("wait", f"workspace/{NAME}", "--for=condition=WorkspaceSucceeded", "--timeout=60s")
            assert len(cluster.kubectl.json("get", "machines")["items"]) == 1


def test_the_two_controllers_run_as_two_processes(tmp_path: Path) -> None:
    with dev_cluster(tmp_path) as cluster:
        cluster.install(ROOT / "config" / "overlays" / "local")
        with (
            cluster.operator(tmp_path, name="workspace", controllers="workspace") as workspace,
            cluster.operator(tmp_path, name="machine", controllers="machine") as machine,
        ):
            workspace.wait_ready()
            machine.wait_ready()
            cluster.kubectl("apply", "-f", str(SAMPLE))
            cluster.kubectl("wait", f"workspace/{NAME}", "--for=condition=WorkspaceSucceeded", "--timeout=60s")
            leases = cluster.kubectl.json("get", "leases", "-n", "kaito-system")["items"]
            assert {lease["metadata"]["name"] for lease in leases} == {"kaito-workspace", "kaito-machine"}
            assert "forbidden" not in workspace.text + machine.text
            assert 'controller="machine"' not in workspace.get("metrics", "/metrics")[1]
            cluster.kubectl("delete", "-f", str(SAMPLE), "--timeout=60s")


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[ApiServer, Client]]:
    """An API server without TLS, so that a proxy can see what is written, with kaito's types."""
    async with ApiServer(ApiServerOptions(tls=False)) as server:
        rest = Rest(of_server(server), RuntimeMetrics())
        client = Client(rest)
        await install(client)
        try:
            yield server, client
        finally:
            await rest.aclose()


@asynccontextmanager
async def replica(
    folder: Path, name: str, server: ApiServer, url: str, lease: Sequence[str]
) -> AsyncIterator[Operator]:
    """A workspace controller that reaches the API server through ``url``; ``lease`` are its arguments on leader election."""
    config = server.kubeconfig()
    config["clusters"][0]["cluster"]["server"] = url
    kubeconfig = folder / f"{name}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    arguments = [
        "--controllers=workspace",
        f"--kubeconfig={kubeconfig}",
        "--leader-elect",
        *lease,
        "--metrics-bind-address=127.0.0.1:0",
        "--health-probe-bind-address=127.0.0.1:0",
        "--log-format=json",
    ]
    log = folder / f"{name}.log"
    process = launch(arguments, {}, log)
    try:
        yield Operator(process, log)
    finally:
        # It says goodbye to the API server, which lives in this event loop.
        await asyncio.to_thread(end, process.pid)
        process.wait()


SHORT = ("--lease-duration=3", "--renew-deadline=2", "--retry-period=0.5")


@pytest.mark.parametrize(("lease", "frozen_for"), [(SHORT, 0.0), ((), 30.0)], ids=["short lease", "default lease"])
async def test_a_leader_that_was_frozen_past_its_lease_does_not_write_once(
    tmp_path: Path, lease: Sequence[str], frozen_for: float
) -> None:
    """Frozen for at least ``frozen_for`` seconds, and until another one leads."""
    sample = yaml.safe_load(SAMPLE.read_text())

    def workspace(name: str) -> Workspace:
        return read_workspace({**sample, "metadata": {"name": name}})

    async def holder(client: Client) -> str:
        leases = await client.list(LEASES, "default")
        return str(leases[0]["spec"].get("holderIdentity", "")) if leases else ""

    async with api_server() as (server, client), Proxy(server.url) as proxy:
        writes: list[bytes] = []

        def observe(data: bytes) -> None:
            if data.startswith((b"POST ", b"PUT ", b"PATCH ", b"DELETE ")):
                writes.append(data.partition(b"\r\n")[0])

        proxy.sent = observe
        async with replica(tmp_path, "frozen", server, proxy.url, lease) as frozen:
            await client.create(WORKSPACES, workspace("before"), namespace="default")
            await eventually(lambda: any(b"/status" in line for line in writes), deadline=30.0)
            async with replica(tmp_path, "other", server, server.url, lease) as other:
                first = await holder(client)
                await eventually(lambda: asyncio.to_thread(other.get, "probes", "/readyz"))
                frozen.freeze()
                thaw = asyncio.get_running_loop().time() + frozen_for
                await client.create(WORKSPACES, workspace("during"), namespace="default")

                async def taken_over() -> bool:
                    return await holder(client) not in ("", first)

                await eventually(taken_over, deadline=30.0)
                writes.clear()
                await client.create(WORKSPACES, workspace("after"), namespace="default")
                await asyncio.sleep(thaw - asyncio.get_running_loop().time())
                frozen.resume()
                await asyncio.to_thread(frozen.process.wait, 20)
                assert frozen.process.returncode == 1
                assert writes == []


def test_a_leader_that_stops_gives_its_lease_back(installed_cluster: DevCluster, tmp_path: Path) -> None:
    def held() -> str:
        lease = installed_cluster.kubectl.json("get", "lease", "kaito-workspace", "-n", "kaito-system")
        return str(lease["spec"].get("holderIdentity", ""))

    with installed_cluster.operator(tmp_path, controllers="workspace") as operator:
        operator.wait_ready()
        until(operator.leads, "it leads")
        assert held()
    assert operator.process.returncode == 0
    assert held() == ""
