"""``make bench``: kaito's runtime beside kopf and an informer on kubernetes_asyncio.

One API server, the same objects, one contender at a time. With ``--kubeconfig`` it measures against any API server, which
then keeps the benchmark's objects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench import micro  # noqa: E402 - this file is run as a script
from hack.bench.names import STARTED  # noqa: E402
from hack.bench.widgets import load, touch  # noqa: E402
from kaito.runtime import Client, Rest, RuntimeMetrics, load_config  # noqa: E402

CONTENDERS = ("kaito", "kopf", "kubernetes_asyncio")
PATCHES = 1000
CHURN_RATE, CHURN_SECONDS = 500, 10
SETTLE_SECONDS = 3


@dataclass(frozen=True)
class Figures:
    """One contender at one size. Times in seconds, memory in MB."""

    contender: str
    count: int
    reconciled: float
    peak: float
    settled: float
    cpu: float
    latency: list[float]
    churn_lag: list[float]
    churn_rate: float


@contextlib.contextmanager
def api_server(kubeconfig: str | None) -> Iterator[str]:
    """The kubeconfig to use: the given one, or that of a new API server that lives as long as the block."""
    if kubeconfig:
        yield kubeconfig
        return
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as name:
        path = Path(name, "kubeconfig")
        process = subprocess.Popen(
            [sys.executable, "-m", "hack.bench.server", str(path)], stdin=subprocess.PIPE, cwd=ROOT
        )
        try:
            while not path.exists():
                if process.poll() is not None:
                    raise SystemExit("the API server did not start")
                time.sleep(0.05)
            yield str(path)
        finally:
            process.communicate()


@contextlib.asynccontextmanager
async def contender(name: str, kubeconfig: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    environ = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    folder = Path(kubeconfig).parent
    if (folder / "token").exists():
        server = urlsplit(load_config(kubeconfig).server)
        environ |= {
            "KUBERNETES_SERVICE_HOST": server.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "KUBERNETES_SERVICE_ACCOUNT_DIR": str(folder),
        }
    environ[STARTED] = str(time.monotonic_ns())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hack.bench.contenders", name, kubeconfig, str(count),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, limit=1 << 26, env=environ,
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def hear(process: asyncio.subprocess.Process, what: str) -> dict[str, Any]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("what") == what:
                return said
    raise SystemExit(f"a contender ended before it said {what!r}")


async def ask(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(b"figures\n")
    return await hear(process, "figures")


async def measure(name: str, kubeconfig: str, client: Client, count: int) -> Figures:
    async with contender(name, kubeconfig, count) as process:
        async with asyncio.timeout(600):
            reconciled = (await hear(process, "reconciled"))["seconds"]
        await asyncio.sleep(SETTLE_SECONDS)
        settled = await ask(process)
        rng = random.Random(1)
        for _ in range(PATCHES):
            await touch(client, rng.randrange(count))
        await asyncio.sleep(0.5)
        patched = await ask(process)
        rate = await churn(client, count, rng)
        await asyncio.sleep(0.5)
        churned = await ask(process)
    return Figures(
        name,
        count,
        reconciled,
        settled["peak"],
        settled["rss"],
        settled["cpu"],
        patched["latencies"],
        churned["lag"],
        rate,
    )


async def churn(client: Client, count: int, rng: random.Random) -> float:
    """Changes at a steady rate for a while; the rate that was reached, per second."""
    began, sent = time.monotonic(), 0
    ends = began + CHURN_SECONDS

    async def write() -> None:
        nonlocal sent
        while (now := time.monotonic()) < ends:
            if sent >= (now - began) * CHURN_RATE:
                await asyncio.sleep(0.002)
                continue
            sent += 1
            await touch(client, rng.randrange(count))

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(write())
    return sent / (time.monotonic() - began)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def row(figures: Figures, base: Figures) -> list[str]:
    return [
        figures.contender,
        f"{figures.reconciled:.2f}",
        f"{figures.reconciled / base.reconciled:.1f}x",
        f"{figures.peak:.0f}",
        f"{figures.settled:.0f}",
        f"{figures.settled / base.settled:.1f}x",
        f"{figures.cpu:.1f}",
        f"{quantile(figures.latency, 0.5) * 1e3:.2f}",
        f"{quantile(figures.latency, 0.99) * 1e3:.2f}",
        f"{quantile(figures.churn_lag, 0.99) * 1e3:.1f}",
        f"{figures.churn_rate:.0f}",
    ]


HEADER = [
    "contender", "sync + first reconcile, s", "ratio", "peak RSS, MB", "settled RSS, MB", "ratio", "CPU to sync, s",
    "latency p50, ms", "p99, ms", "loop lag p99 under churn, ms", "events/s",
]  # fmt: skip


def table(rows: list[list[str]], header: list[str]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("kopf", "kubernetes_asyncio", "aiohttp", "msgspec", "uvloop")
    )
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {packages}; API server: kaito's local cluster unless another was named."
    )


async def run(sizes: list[int], kubeconfig: str, contenders: list[str]) -> str:
    rest = Rest(load_config(kubeconfig), RuntimeMetrics())
    client = Client(rest)
    sections = []
    try:
        for count in sizes:
            print(f"loading {count} objects …", flush=True)
            await load(client, count)
            measured = []
            for name in contenders:
                figures = await measure(name, kubeconfig, client, count)
                measured.append(figures)
                print(f"  {name}: {figures.reconciled:.2f} s, {figures.settled:.0f} MB settled", flush=True)
            text = table([row(figures, measured[0]) for figures in measured], HEADER)
            sections.append(f"## {count} custom resources of 5.6 KB\n\n{text}\n")
            print(text, flush=True)
    finally:
        await rest.aclose()
    return "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1000,5000,10000,50000", help="numbers of objects, separated by commas")
    parser.add_argument("--kubeconfig", help="measure against this API server")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "benchmarks.md", help="where the table is written"
    )
    arguments = parser.parse_args()
    parts = micro.measure()
    print(table(parts, micro.HEADER), flush=True)
    with api_server(arguments.kubeconfig) as kubeconfig:
        sections = asyncio.run(
            run([int(size) for size in arguments.sizes.split(",")], kubeconfig, arguments.contenders.split(","))
        )
    arguments.output.write_text(
        "# Benchmarks\n\nWritten by `make bench`: the contenders ran one after another in one run, on the same API server "
        "and objects; times count from the start of its process. Compare ratios: absolute figures depend on the machine.\n\n"
        f"{machine()}\n\n{sections}\n## Parts\n\n{table(parts, micro.HEADER)}\n"
    )
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
