"""A real Prometheus scrapes the operator, a model server and a tuner: sound pages, data in every panel, the right alert."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack import generate_dashboards

from inference.scripted import Face, ScriptedEngine, serving
from kaito.tuning.progress import Progress
from kaito.tuning.progress import serving as showing
from support.cluster import Operator, dev_cluster
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"
RULES = ROOT / "config" / "components" / "prometheus" / "rules.yaml"
PACE = 30
"""How many times faster than in a cluster: rules are evaluated every second instead of every half minute."""

DRAWN = [query for each in generate_dashboards.DASHBOARDS.values() for query in generate_dashboards.queries(each)]
GIVEN = ('kaito_workspace_count non-histogram and non-summary metrics should not have "_count" suffix',)
"""Names that users of the field know."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus is not installed: apt-get install prometheus",
)


def rules() -> dict[str, Any]:
    """Those of the component, with times to wait as short as the pace makes them."""
    spec: dict[str, Any] = yaml.safe_load(RULES.read_text())["spec"]
    for group in spec["groups"]:
        for rule in group["rules"]:
            if wait := rule.get("for"):
                found = re.fullmatch(r"(\d+)m", wait)
                assert found is not None
                rule["for"] = f"{int(found[1]) * 60 // PACE}s"
    return spec


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        return list((await self._get(f"/api/v1/query?{query}"))["data"]["result"])

    async def ready(self) -> bool:
        try:
            await self._get("/api/v1/status/buildinfo")
        except OSError:
            return False
        return True

    async def _get(self, path: str) -> Any:
        def get() -> Any:
            with urllib.request.urlopen(f"{self._url}{path}", timeout=10) as answer:
                return json.load(answer)

        return await asyncio.to_thread(get)


@contextlib.asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, int]) -> AsyncIterator[Prometheus]:
    """One that scrapes ``targets``, ports by name: kaito is the operator, others are pods of Workspaces of that name."""
    jobs = [
        {
            "job_name": name,
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}"], "labels": {} if name == "kaito" else {"kaito_sh_workspace": name}}
            ],
        }
        for name, port in targets.items()
    ]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules()))
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump({"global": every, "rule_files": ["rules.yaml"], "scrape_configs": jobs})
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = Prometheus(f"http://{address}")
        await eventually(found.ready, deadline=30.0)
        yield found
    finally:
        process.terminate()
        await process.wait()


async def checked(url: str) -> None:
    def check() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        return (done.stdout + done.stderr).decode()

    complaints = [line for line in (await asyncio.to_thread(check)).splitlines() if line not in GIVEN]
    assert complaints == []


async def chatting(face: Face) -> None:
    while True:
        await face.post("/v1/completions", {"model": "m", "prompt": "Hi", "max_tokens": 3})
        await asyncio.sleep(0.2)


async def firing(watcher: Prometheus) -> set[str]:
    return {each["metric"]["alertname"] for each in await watcher.query('ALERTS{alertstate="firing",severity!="none"}')}


async def test_everything_that_is_drawn_has_data_and_a_killed_operator_alarms(tmp_path: Path) -> None:
    with dev_cluster(tmp_path) as cluster, contextlib.ExitStack() as stack:
        cluster.install(ROOT / "config" / "overlays" / "local")
        operator: Operator = stack.enter_context(cluster.operator(tmp_path))
        await asyncio.to_thread(operator.wait_ready)
        progress = Progress("phi")
        progress.begin(10)
        progress.log(3, {"loss": 1.5, "eval_loss": 1.6})
        tuner = stack.enter_context(showing(progress, 0, "127.0.0.1"))
        async with serving(ScriptedEngine("Hello")) as face, asyncio.TaskGroup() as tasks:
            ports = {
                "kaito": operator.port("metrics"),
                "phi": urllib.parse.urlsplit(face.url).port or 0,
                "tuned": tuner,
            }
            talk = tasks.create_task(chatting(face))
            async with prometheus(tmp_path, ports) as watcher:
                await eventually(lambda: watcher.query('leader_election_master_status{job="kaito"} == 1'))
                await asyncio.to_thread(cluster.kubectl, "apply", "-f", str(SAMPLE))

                async def complete() -> bool:
                    assert [query for query in DRAWN if not await watcher.query(query)] == []
                    return True

                await eventually(complete, deadline=90.0)
                for port in ports.values():
                    await checked(f"http://127.0.0.1:{port}/metrics")
                assert await firing(watcher) == set()
                operator.process.kill()
                await eventually(lambda: firing(watcher), deadline=30.0)
                assert await firing(watcher) == {"KaitoDown"}
            talk.cancel()
