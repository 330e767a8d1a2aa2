"""The operator with nothing but the rights of the manifests, and who may read its metrics."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import aiohttp
import yaml

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from support.kustomize import apply, build, installer
from support.waiting import eventually


async def test_the_metrics_are_for_those_who_may_get_them(tmp_path: Path) -> None:
    built = build(tmp_path / "overlay", "overlays/byo", ["components/metrics-tls"])
    async with ApiServer(ApiServerOptions()) as server:
        kubectl = installer(server, tmp_path)
        await apply(kubectl, built)
        reader = ["--clusterrole=kaito-metrics-reader", "--serviceaccount=default:prometheus"]
        for command in (
            ["wait", "--for=condition=Established", "crd/workspaces.kaito.sh"],
            ["create", "serviceaccount", "prometheus", "-n", "default"],
            ["create", "serviceaccount", "stranger", "-n", "default"],
            ["create", "clusterrolebinding", "kaito-metrics-reader", *reader],
        ):
            await asyncio.to_thread(kubectl, *command)

        async def token(account: str, namespace: str) -> str:
            return (await asyncio.to_thread(kubectl, "create", "token", account, "-n", namespace)).strip()

        kubeconfig = server.kubeconfig()
        kubeconfig["users"][0]["user"] = {"token": await token("kaito-controller-manager", "kaito-system")}
        path = tmp_path / "operator"
        path.write_text(yaml.safe_dump(kubeconfig))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = ["--controllers=workspace", "--node-source=byo", "--metrics-secure", f"--kubeconfig={path}"]
        flags += [f"--metrics-bind-address=127.0.0.1:{port}", "--health-probe-bind-address=0"]
        with (tmp_path / "log").open("wb") as log:
            operator = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "kaito", "manager", *flags),
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            async with aiohttp.ClientSession() as session:

                async def answer(bearer: str | None) -> tuple[int, str]:
                    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
                    url = f"https://127.0.0.1:{port}/metrics"
                    async with session.get(url, headers=headers, ssl=False) as response:
                        return response.status, await response.text()

                async def refused() -> bool:
                    try:
                        return (await answer(None))[0] == 401
                    except aiohttp.ClientConnectionError:
                        return False  # it does not serve yet

                await eventually(refused, deadline=60.0)
                assert (await answer(await token("stranger", "default")))[0] == 403
                status, text = await answer(await token("prometheus", "default"))
                assert status == 200
                assert "controller_runtime_reconcile_total" in text
        finally:
            operator.terminate()
            await asyncio.wait_for(operator.wait(), 30)


async def test_a_certificate_without_secure_metrics_is_a_mistake(tmp_path: Path) -> None:
    operator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kaito", "manager", f"--metrics-cert-path={tmp_path}"),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(operator.communicate(), 60)
    assert operator.returncode == 2, said
    assert b"--metrics-secure" in said
