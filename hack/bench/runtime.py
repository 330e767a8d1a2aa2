"""``make bench``: kaito's runtime beside kopf and an informer on kubernetes_asyncio.

One API server, the same objects, one contender at a time. With ``--kubeconfig`` it measures against any API server, which
then keeps the benchmark's objects. Ends with 1 where a goal that was measured is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench import micro, settled, start  # noqa: E402 - this file is run as a script
from hack.bench.document import PAGE, write_runtime  # noqa: E402
from hack.bench.figures import Figures, contenders_table, parts_table  # noqa: E402
from hack.bench.goals import SETTLED, goals_table, judge  # noqa: E402
from hack.bench.measure import CHURN_RATE, ContenderFailed, measure, say  # noqa: E402
from hack.bench.objects import KINDS, Kind, load  # noqa: E402
from kaito.runtime import Client, Rest, RuntimeMetrics, load_config  # noqa: E402

CONTENDERS = ("kaito", "kopf", "kubernetes_asyncio")
SIZES = ("widgets=1000,5000,10000", "pods=1000,10000,50000")
_DOCUMENT = """# Benchmarks

Written by `make bench`: the contenders ran one after another in one run, on the same API server and objects; times count \
from the start of each one's process. Compare ratios: absolute figures depend on the machine. 1 MB is 10^6 bytes.

{machine}

Each follows the objects of all namespaces as is usual with it. kaito: a `Controller`, whose cache holds the objects' JSON \
without managed fields. kopf: `@kopf.on.event`. kubernetes_asyncio: list, then watch, into a dictionary; custom resources as \
plain dictionaries, pods as the library's `V1Pod` models, because that is what its typed API gives.

Latency is from before a patch is sent until the change is reconciled, patches one by one. Churn asks for {rate} changes a \
second; events/s is how many the API server took.

{sections}
## Parts

{parts}

## Goals

{goals}
"""


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


def machine(server: str) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("kopf", "kubernetes_asyncio", "aiohttp", "msgspec", "uvloop")
    )
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}; {packages}; API server: {server}."
    )


async def server_version(kubeconfig: str) -> str:
    rest = Rest(load_config(kubeconfig), RuntimeMetrics())
    try:
        answer = await rest.send("GET", "/version")
    finally:
        await rest.aclose()
    return f"Kubernetes {json.loads(answer.body)['gitVersion']}"


async def run(sizes: dict[str, list[int]], kubeconfig: str, contenders: list[str]) -> tuple[list[str], list[Figures]]:
    """A section of the document for each kind and size, and all figures."""
    rest = Rest(load_config(kubeconfig), RuntimeMetrics())
    client = Client(rest)
    sections: list[str] = []
    measured: list[Figures] = []
    try:
        for plural, counts in sizes.items():
            for count in counts:
                section, figures = await compare(client, kubeconfig, KINDS[plural], count, contenders)
                sections.append(section)
                measured += figures
    finally:
        await rest.aclose()
    return sections, measured


async def compare(
    client: Client, kubeconfig: str, kind: Kind, count: int, contenders: list[str]
) -> tuple[str, list[Figures]]:
    say(f"{count:,} {kind.title}: loading")
    size = await load(client, kind, count)
    measured, failures = [], []
    for name in contenders:
        try:
            measured.append(await measure(name, kubeconfig, client, kind, count))
        except ContenderFailed as error:
            if name == "kaito":
                raise
            failures.append(f"{name} did not finish: {error}.")
            say(f"  {failures[-1]}")
    shown = "\n\n".join([contenders_table(measured), *failures] if measured else failures)
    print(shown, flush=True)
    return f"## {count:,} {kind.title} of {size / 1e3:.1f} KB\n\n{shown}\n", measured


async def beside_base(kubeconfig: str, base: Path) -> start.Beside:
    rest = Rest(load_config(kubeconfig), RuntimeMetrics())
    try:
        say(f"10,000 pods beside {base}")
        return await start.beside(Client(rest), kubeconfig, base)
    finally:
        await rest.aclose()


def restart(count: int) -> settled.Run:
    """A restart of the operator with ``count`` settled Workspaces, on an API server of its own."""
    with api_server(None) as kubeconfig:
        say(f"{count:,} Workspaces: settling")
        settled.settle(kubeconfig, count)
        measured = settled.run(kubeconfig, count)
    say(f"  {measured}")
    return measured


def size_list(text: str) -> tuple[str, list[int]]:
    """``pods=1000,10000`` as a kind's plural and its sizes, in rising order."""
    plural, _, numbers = text.partition("=")
    try:
        counts = sorted({int(number) for number in numbers.split(",")})
    except ValueError:
        counts = [0]
    if plural not in KINDS or counts[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like pods=1000,10000; kinds: {', '.join(KINDS)}")
    return plural, counts


def contender_list(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"{text!r} is not some of {','.join(CONTENDERS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes",
        type=size_list,
        nargs="+",
        metavar="KIND=N,N",
        default=[size_list(text) for text in SIZES],
        help=f"numbers of objects of each kind ({', '.join(KINDS)}); a kind that is not named is left out",
    )
    parser.add_argument(
        "--settled",
        type=int,
        nargs="*",
        metavar="N",
        default=list(SETTLED),
        help="numbers of settled Workspaces with which the operator is restarted",
    )
    parser.add_argument("--base", type=Path, help="another checkout, whose runtime is measured beside this one's")
    parser.add_argument("--kubeconfig", help="measure against this API server")
    parser.add_argument("--contenders", type=contender_list, default=list(CONTENDERS), metavar="NAME,NAME")
    parser.add_argument("--output", type=Path, default=PAGE, help="where the table is written")
    arguments = parser.parse_args()
    parts = micro.measure()
    print(parts_table(parts), flush=True)
    took = start.imports()
    runs = {count: restart(count) for count in arguments.settled}
    with api_server(arguments.kubeconfig) as kubeconfig, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = runner.run(server_version(kubeconfig)) if arguments.kubeconfig else "kaito's local cluster"
        beside = runner.run(beside_base(kubeconfig, arguments.base)) if arguments.base else None
        sections, measured = runner.run(run(dict(arguments.sizes), kubeconfig, arguments.contenders))
    goals = judge(measured, parts, took, runs, beside)
    print(goals_table(goals))
    write_runtime(
        arguments.output,
        _DOCUMENT.format(
            machine=machine(server),
            rate=CHURN_RATE,
            sections="\n".join(sections),
            parts=parts_table(parts),
            goals=goals_table(goals),
        ),
    )
    print(f"written to {arguments.output}")
    missed = [goal for goal in goals if goal.met is False]
    for goal in missed:
        print(f"missed: {goal.text}: {goal.measured}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
