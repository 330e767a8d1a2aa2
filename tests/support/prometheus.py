"""A real Prometheus beside a local cluster, set up as the Prometheus Operator sets one up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from support.waiting import eventually

Manifest = dict[str, Any]


def pod_monitor(monitor: Manifest, kubeconfig: Path) -> Manifest:
    """The scrape configuration that the Prometheus Operator makes of a PodMonitor with one endpoint by port number."""
    name = "/".join(monitor["metadata"][key] for key in ("namespace", "name"))
    spec = monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    port = str(endpoint["targetPort"])
    assert spec["namespaceSelector"] == {"any": True}
    assert {each["operator"] for each in spec["selector"]["matchExpressions"]} == {"Exists"}
    labels = {each["key"]: _label(each["key"]) for each in spec["selector"]["matchExpressions"]}
    relabelings: list[Manifest] = [
        {"source_labels": ["job"], "target_label": "__tmp_prometheus_job_name"},
        {"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"},
        *(
            {"action": "keep", "source_labels": [f"__meta_kubernetes_pod_labelpresent_{label}"], "regex": "true"}
            for label in labels.values()
        ),
        {"action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_number"], "regex": port},
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        *(
            {
                "source_labels": [f"__meta_kubernetes_pod_label_{_label(key)}"],
                "target_label": _label(key),
                "regex": "(.+)",
                "replacement": "${1}",
            }
            for key in spec["podTargetLabels"]
        ),
        {"target_label": "job", "replacement": name},
        {"target_label": "endpoint", "replacement": port},
    ]
    return {
        "job_name": f"podMonitor/{name}/0",
        "honor_timestamps": True,
        "metrics_path": endpoint["path"],
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": relabelings,
    }


def _label(key: str) -> str:
    return re.sub(r"\W", "_", key)


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, expression: str) -> list[Manifest]:
        query = urllib.parse.urlencode({"query": expression})
        return list((await self._get(f"/api/v1/query?{query}"))["data"]["result"])

    async def targets(self, job: str) -> list[Manifest]:
        """Those that ``job`` has found and scrapes."""
        active = (await self._get("/api/v1/targets?state=active"))["data"]["activeTargets"]
        return [target for target in active if target["scrapePool"] == job]

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
async def prometheus(folder: Path, jobs: Sequence[Manifest], rules: Manifest) -> AsyncIterator[Prometheus]:
    """One that does ``jobs`` and evaluates ``rules`` every second."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump({"global": every, "rule_files": ["rules.yaml"], "scrape_configs": list(jobs)})
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
