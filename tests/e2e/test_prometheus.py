"""A real Prometheus scrapes the operator, and a model server and a tuner in pods that it finds as the PodMonitor says: sound
pages, data in every panel, the right alert."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack import generate_dashboards

from kaito.runtime import load_config
from support.cluster import Operator, dev_cluster
from support.prometheus import Prometheus, found_pods, pod_monitor, prometheus
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = ROOT / "config" / "components" / "prometheus"
SAMPLES = ROOT / "config" / "samples"
PACE = 30
"""How many times faster than in a cluster: rules are evaluated every second instead of every half minute."""

DRAWN = [query for each in generate_dashboards.DASHBOARDS.values() for query in generate_dashboards.queries(each)]
GIVEN = ('kaito_workspace_count non-histogram and non-summary metrics should not have "_count" suffix',)
"""Names that users of the field know."""
PODS = "podMonitor/kaito-system/kaito-workspaces/0"
MODEL, TUNED = "workspace-phi-3-mini", "workspace-phi-3-mini-volumes"

PROGRAMS = {
    "kaito-inference": """\
from inference.scripted import ScriptedEngine
from kaito.inference import engines
from kaito.inference.__main__ import main
engines.create = lambda settings: ScriptedEngine("Hello")
sys.argv.append(f"--host={os.environ['POD_IP']}")
main()
""",
    "kaito-tuning": """\
import signal
from kaito.tuning.progress import Progress, serving
progress = Progress("phi")
progress.begin(10)
progress.log(3, {"loss": 1.5, "eval_loss": 1.6})
with serving(progress, 5000, os.environ["POD_IP"]):
    signal.pause()
""",
}
"""What the containers of kaito's own images run here: kaito's own server, with an engine that needs no model, and a tuner that
gets nowhere."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus is not installed: apt-get install prometheus",
)


def rules() -> dict[str, Any]:
    """Those of the component, with times to wait as short as the pace makes them."""
    spec: dict[str, Any] = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]
    for group in spec["groups"]:
        for rule in group["rules"]:
            if wait := rule.get("for"):
                found = re.fullmatch(r"(\d+)m", wait)
                assert found is not None
                rule["for"] = f"{int(found[1]) * 60 // PACE}s"
    return spec


def install_programs(folder: Path) -> str:
    """A PATH on which a pod finds them."""
    folder.mkdir()
    for name, text in PROGRAMS.items():
        program = folder / name
        head = f"#!{sys.executable}\nimport os, sys\nsys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        program.write_text(head + text)
        program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def workspaces() -> list[dict[str, Any]]:
    """The samples, of a kind for which kaito's own images run, with volumes that every cluster has."""
    served = yaml.safe_load((SAMPLES / f"{MODEL}.inference.yaml").read_text())
    served["metadata"]["annotations"] = {"kaito.sh/runtime": "transformers"}
    tuned = yaml.safe_load((SAMPLES / f"{TUNED}.tuning.yaml").read_text())
    tuned["tuning"]["preset"]["name"] = "phi-3.5-mini-instruct"
    for end in ("input", "output"):
        tuned["tuning"][end] = {"volumeSource": {"emptyDir": {}}}
    return [served, tuned]


async def checked(url: str) -> None:
    def check() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            page = answer.read()
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        return (done.stdout + done.stderr).decode()

    complaints = [line for line in (await asyncio.to_thread(check)).splitlines() if line not in GIVEN]
    assert complaints == []


async def chatting(url: str) -> None:
    body = json.dumps({"model": "phi-3-mini-4k-instruct", "prompt": "Hi", "max_tokens": 3}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})

    def chat() -> None:
        """A server that is not ready yet says so."""
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    while True:
        await asyncio.to_thread(chat)
        await asyncio.sleep(0.2)


async def firing(watcher: Prometheus) -> set[str]:
    return {each["metric"]["alertname"] for each in await watcher.query('ALERTS{alertstate="firing",severity!="none"}')}


async def test_everything_that_is_drawn_has_data_and_a_killed_operator_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", install_programs(tmp_path / "bin"))
    own = "--runtime-image=registry.example/own-{engine}:1"
    async with contextlib.AsyncExitStack() as stack:
        cluster = stack.enter_context(dev_cluster(tmp_path, flags=("--allow-host-commands",)))
        cluster.install(ROOT / "config" / "overlays" / "local")
        operator: Operator = stack.enter_context(cluster.operator(tmp_path, flags=(own,)))
        await asyncio.to_thread(operator.wait_ready)
        pods = await stack.enter_async_context(found_pods(load_config(str(cluster.kubeconfig))))
        monitor = yaml.safe_load((COMPONENT / "pod_monitor.yaml").read_text())
        metrics = f"127.0.0.1:{operator.port('metrics')}"
        jobs = [
            {"job_name": "kaito", "static_configs": [{"targets": [metrics]}]},
            pod_monitor(monitor, pods),
        ]
        async with prometheus(tmp_path, jobs, rules()) as watcher, asyncio.TaskGroup() as tasks:
            await eventually(lambda: watcher.query('leader_election_master_status{job="kaito"} == 1'))
            await asyncio.to_thread(cluster.kubectl.apply, *workspaces())

            async def found() -> dict[str, str]:
                targets = {each["labels"]["kaito_sh_workspace"]: each for each in await watcher.targets(PODS)}
                assert targets.keys() == {MODEL, TUNED}
                assert {each["health"] for each in targets.values()} == {"up"}
                for name, target in targets.items():
                    said = {key: target["labels"][key] for key in ("namespace", "container", "job", "endpoint")}
                    assert said == {
                        "namespace": "default",
                        "container": name,
                        "job": "kaito-system/kaito-workspaces",
                        "endpoint": "5000",
                    }
                return {name: target["scrapeUrl"] for name, target in targets.items()}

            pages = await eventually(found, deadline=60.0)
            talk = tasks.create_task(chatting(pages[MODEL].removesuffix("/metrics")))

            async def complete() -> bool:
                assert [query for query in DRAWN if not await watcher.query(query)] == []
                return True

            await eventually(complete, deadline=90.0)
            for page in (f"http://{metrics}/metrics", *pages.values()):
                await checked(page)
            assert await firing(watcher) == set()
            operator.process.kill()
            await eventually(lambda: firing(watcher), deadline=30.0)
            assert await firing(watcher) == {"KaitoDown"}
            talk.cancel()
