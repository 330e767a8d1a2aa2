"""The programs that are compared. Each follows all widgets, "reconciles" each once, and then times every change.

Run as ``python -m hack.bench.contenders NAME KUBECONFIG COUNT``; it prints a line of JSON for each thing that the benchmark
waits for, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hack.bench.names import GROUP, PLURAL, STAMP, STARTED, VERSION


def resident() -> tuple[float, float]:
    """Current and peak resident memory in MB."""
    fields = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    )
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


class Report:
    """What a contender has seen, and what it says of it."""

    def __init__(self, count: int) -> None:
        self._left = {f"widget-{number:06d}" for number in range(count)}
        self._latencies: list[float] = []
        self._lag: list[float] = []

    def reconciled(self, name: str, annotations: Mapping[str, str]) -> None:
        if self._left:
            self._left.discard(name)
            if not self._left:
                self.say("reconciled", seconds=(time.monotonic_ns() - int(os.environ[STARTED])) / 1e9)
            return
        if STAMP in annotations:
            self._latencies.append((time.monotonic_ns() - int(annotations[STAMP])) / 1e9)

    def say(self, what: str, **values: Any) -> None:
        print(json.dumps({"what": what, **values}), flush=True)

    async def serve(self) -> None:
        """Answer each line of standard input with the figures so far; return at its end."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

        threading.Thread(target=read, daemon=True).start()
        lag = asyncio.create_task(self._measure_lag())
        while await lines.get():
            now, peak = resident()
            times = os.times()
            self.say(
                "figures", rss=now, peak=peak, cpu=times.user + times.system, latencies=self._latencies, lag=self._lag
            )
            self._latencies, self._lag = [], []
        lag.cancel()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self._lag.append(max(0.0, loop.time() - due))


async def kaito(kubeconfig: str, report: Report) -> None:
    from hack.bench.widgets import WIDGETS
    from kaito.runtime import Controller, Manager, ManagerOptions, Request, load_config

    # As in a cluster, where that is possible: reading a kubeconfig loads all of kubernetes_asyncio, which no pod does.
    config = load_config() if "KUBERNETES_SERVICE_HOST" in os.environ else load_config(kubeconfig)
    manager = Manager(config, ManagerOptions(metrics_address="0", health_address="0"))
    widgets = manager.cache.lister(WIDGETS)

    class Reconciler:
        async def reconcile(self, request: Request) -> None:
            stored = widgets.stored(request.key.name, request.key.namespace)
            if stored is not None:
                report.reconciled(request.key.name, stored.meta.annotations)

    manager.add(Controller("bench", Reconciler(), WIDGETS, max_concurrent=4))
    running = asyncio.create_task(manager.run())
    await report.serve()
    manager.stop()
    await running


async def kopf(kubeconfig: str, report: Report) -> None:
    import kopf

    os.environ["KUBECONFIG"] = kubeconfig
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_kubeconfig(**arguments)

    # The cheapest handler that kopf has: no finalizer, no progress annotations, no patches.
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def seen(name: str, annotations: Mapping[str, str], **_: Any) -> None:
        report.reconciled(name, annotations)

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    stop = asyncio.Event()
    running = asyncio.create_task(
        kopf.operator(registry=registry, settings=settings, clusterwide=True, standalone=True, stop_flag=stop)
    )
    await report.serve()
    stop.set()
    await running


async def kubernetes_asyncio(kubeconfig: str, report: Report) -> None:
    from kubernetes_asyncio import client, config, watch

    await config.load_kube_config(config_file=kubeconfig)
    store: dict[str, Any] = {}
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async with client.ApiClient() as api_client:
            api = client.CustomObjectsApi(api_client)
            token: Any = None  # the generated type says str, the first page has none
            version = ""
            while True:
                page = await api.list_cluster_custom_object(
                    GROUP, VERSION, PLURAL, limit=500, **({"_continue": token} if token else {})
                )
                for item in page["items"]:
                    store[item["metadata"]["name"]] = item
                    queue.put_nowait(item["metadata"]["name"])
                version, token = page["metadata"]["resourceVersion"], page["metadata"].get("continue", "")
                if not token:
                    break
            async with watch.Watch() as watching:
                stream = watching.stream(
                    api.list_cluster_custom_object,
                    GROUP,
                    VERSION,
                    PLURAL,
                    resource_version=version,
                    timeout_seconds=3600,
                )
                async for event in stream:
                    item = event["object"]
                    store[item["metadata"]["name"]] = item
                    queue.put_nowait(item["metadata"]["name"])

    async def reconcile() -> None:
        while True:
            name = await queue.get()
            report.reconciled(name, store[name]["metadata"].get("annotations", {}))

    tasks = [asyncio.create_task(follow()), asyncio.create_task(reconcile())]
    await report.serve()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def main() -> None:
    name, kubeconfig, count = sys.argv[1:]
    contender = {"kaito": kaito, "kopf": kopf, "kubernetes_asyncio": kubernetes_asyncio}[name]
    report = Report(int(count))
    # uvloop where the contender itself would use it; an informer on kubernetes_asyncio runs on asyncio's own loop.
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name != "kubernetes_asyncio":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(contender(kubeconfig, report))


if __name__ == "__main__":
    main()
