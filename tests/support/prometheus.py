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
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from kaito.runtime import PODS, Client, Rest, RestConfig, RuntimeMetrics
from support.waiting import eventually

Manifest = dict[str, Any]


def pod_monitor(monitor: Manifest, pods: str) -> Manifest:
    """The scrape configuration that the Prometheus Operator makes of a PodMonitor with one endpoint by port number. The pods
    are those that the URL ``pods`` tells of, as :func:`found_pods` does."""
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
        "http_sd_configs": [{"url": pods, "refresh_interval": "1s"}],
        "relabel_configs": relabelings,
    }


@contextlib.asynccontextmanager
async def found_pods(config: RestConfig) -> AsyncIterator[str]:
    """The URL of what Prometheus' own discovery of pods would find: Debian's is built without it."""
    rest = Rest(config, RuntimeMetrics())

    async def answer(_: web.Request) -> web.Response:
        return web.json_response([group for pod in await Client(rest).list(PODS) for group in _groups(pod)])

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}/".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()
        await rest.aclose()


def _groups(pod: Manifest) -> Iterator[Manifest]:
    """The targets of a pod, one for each port, with their labels."""
    metadata, status = pod["metadata"], pod["status"]
    if not (address := status.get("podIP")):
        return
    labels = {
        "__meta_kubernetes_namespace": metadata["namespace"],
        "__meta_kubernetes_pod_name": metadata["name"],
        "__meta_kubernetes_pod_phase": status["phase"],
    }
    for key, value in (metadata.get("labels") or {}).items():
        labels[f"__meta_kubernetes_pod_label_{_label(key)}"] = value
        labels[f"__meta_kubernetes_pod_labelpresent_{_label(key)}"] = "true"
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            number = str(port["containerPort"])
            own = {
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_number": number,
            }
            yield {"targets": [f"{address}:{number}"], "labels": labels | own}


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
        if process.returncode is None:
            process.terminate()
        await process.wait()
