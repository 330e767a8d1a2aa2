"""How long a process takes from its start: imports, and all of it beside another checkout."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hack.bench.measure import ROOT, from_start, say
from hack.bench.objects import KINDS, load
from kaito.runtime import Client

PODS = 10_000
ROUNDS = 15


@dataclass(frozen=True)
class Imports:
    """Seconds of a process that imports one thing and ends; the best of several."""

    runtime: float
    aiohttp: float
    unwanted: tuple[str, ...]
    """Modules that come with the runtime and should not."""


@dataclass(frozen=True)
class Beside:
    """Seconds from the start of a process to the last first reconcile of 10,000 pods; the best of several."""

    here: float
    base: float


def imports() -> Imports:
    def best(statement: str) -> float:
        def once() -> float:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
            return time.perf_counter() - began

        return min(once() for _ in range(ROUNDS))

    # What a program that runs controllers uses, and not merely the package, whose names load on first use.
    use = "from kaito.runtime import Client, Controller, Manager, ManagerOptions, Request"
    ask = f"{use}; import sys; print(*(name for name in ('typer', 'pydantic', 'prometheus_client') if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", ask], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    return Imports(best(use), best("import aiohttp"), tuple(found.split()))


async def beside(client: Client, kubeconfig: str, base: Path) -> Beside:
    """This checkout and the one at ``base`` in turn, on the same server and objects."""
    kind = KINDS["pods"]
    await load(client, kind, PODS)
    here, there = [], []
    for number in range(1, ROUNDS + 1):
        there.append(await from_start(kubeconfig, kind, PODS, base))
        here.append(await from_start(kubeconfig, kind, PODS))
        say(f"  round {number}: base {there[-1]:.2f} s, here {here[-1]:.2f} s")
    return Beside(min(here), min(there))
