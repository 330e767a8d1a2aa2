"""``make fleet``: many Machines at once, from the request to Ready and to nothing again.

The operator is a process of its own; API server and cloud are kaito's local ones, in this process, whose pools take two
seconds to make. Prints the figures and ends with 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.fleet import SITE, Fleet, until  # noqa: E402 - this file is run as a script
from kaito.api.conditions import find, is_true  # noqa: E402
from kaito.api.resources import MACHINES  # noqa: E402
from kaito.devcluster.arm import ArmOptions  # noqa: E402
from kaito.runtime import Event, RuntimeMetrics  # noqa: E402
from kaito.runtime.cache.informer import Informer  # noqa: E402
from kaito.runtime.cache.scope import Scope  # noqa: E402

MOST_REQUESTS = 3.0
"""Requests to Azure for each Machine, beside lists."""
MOST_GROWTH = 30.0
"""MB."""
IN_PROGRESS = 1.0
"""Seconds until a Machine says that it is being launched."""


async def measure(count: int, folder: Path) -> int:
    options = ArmOptions(site=SITE, create_seconds=2.0, delete_seconds=1.0, latency=0.05)
    async with Fleet(folder, options, operators=1, environ={"KAITO_POLL_INTERVAL_SECONDS": "1"}) as fleet:
        (operator,) = fleet.operators
        operator.start()
        await until(lambda: _true(bool(fleet.law.leader) and bool(fleet.arm.requests)), "the operator leads", 30.0)
        await asyncio.sleep(3.0)
        idle = operator.resident_mb()
        fleet.arm.requests.clear()

        seen: dict[str, float] = {}
        created: dict[str, float] = {}

        def note(event: Event[object]) -> None:
            if event.new is None:
                return
            machine = MACHINES.decode(event.new.data)
            if find(machine.status.conditions, "MachineLaunched") is not None:
                seen.setdefault(machine.metadata.name, time.monotonic())

        informer = Informer(fleet.client.rest, MACHINES, Scope(""), metrics=RuntimeMetrics())
        informer.add_handler(note)
        following = asyncio.create_task(informer.run())
        peak = idle
        try:
            started = time.monotonic()
            for number in range(count):
                name = f"ws{number:04d}"
                created[name] = time.monotonic()
                await fleet.make(name)

            async def ready() -> bool:
                nonlocal peak
                peak = max(peak, operator.resident_mb())
                machines = await fleet.machines()
                return len(machines) == count and all(is_true(each.status.conditions, "Ready") for each in machines)

            await until(ready, f"{count} Machines are Ready", 120.0)
            to_ready = time.monotonic() - started
            made = Counter(request.method for request in fleet.arm.requests)
            for name in created:
                await fleet.delete(name)

            async def gone() -> bool:
                nonlocal peak
                peak = max(peak, operator.resident_mb())
                return not await fleet.machines() and not fleet.arm.pools and not await fleet.nodes()

            to_gone = await until(gone, "all are gone", 120.0)
        finally:
            following.cancel()
            await asyncio.wait([following])
        total = Counter(request.method for request in fleet.arm.requests)
    slowest = max(seen[name] - created[name] for name in created)
    each = sum(amount for method, amount in total.items() if method not in ("LIST", "CLUSTER")) / count
    print(f"{count} Machines at once; a pool takes {options.create_seconds:g} s to make, every answer 50 ms")
    print(f"  all Ready after                    {to_ready:7.2f} s   requests to Azure: {dict(made)}")
    print(f"  all gone after                     {to_gone:7.2f} s   requests to Azure in all: {dict(total)}")
    print(f"  requests for each, beside lists    {each:7.2f}     at most {MOST_REQUESTS:g}")
    print(f"  Launched says in progress after    {slowest:7.2f} s   at most {IN_PROGRESS:g}, for the slowest")
    print(
        f"  resident memory                    {idle:7.1f} MB  and {peak - idle:.1f} MB more at the most; limit {MOST_GROWTH:g}"
    )
    missed = each > MOST_REQUESTS or slowest > IN_PROGRESS or peak - idle > MOST_GROWTH
    print("a goal is missed" if missed else "all goals are met")
    return int(missed)


async def _true(value: bool) -> bool:
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="Machines; default: 200")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as folder:
        return asyncio.run(measure(arguments.count, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
