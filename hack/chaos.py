"""``make chaos``: hundreds of claims come and go at random while cloud, API server and operators fail in every way.

The cloud answers 401, 409, 429 and 500, late or not at all; its operations fail, take for ever, or end with a machine that
never joins. Watches of the API server break, and the leader is killed twice. When the weather has cleared there must be
exactly one pool, and one Ready node, for every claim that was not deleted; and no process may have written anything, to
the cluster or to the cloud, without holding the lease.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hack.fleet import SITE, Fleet, until  # noqa: E402 - this file is run as a script
from kaito.api.conditions import is_true  # noqa: E402
from kaito.devcluster.arm import ArmOptions, Fault, Plan  # noqa: E402
from kaito.devcluster.arm.errors import ArmError  # noqa: E402

FULL = 5.0
"""Minutes from which on the leader is killed twice and every trouble must have been met."""
CONVERGED = 180.0
"""Seconds of good weather within which all must be well."""
ENVIRON = {
    "KAITO_POLL_INTERVAL_SECONDS": "1",
    "KAITO_RETRY_MIN_SECONDS": "1",
    "KAITO_RETRY_MAX_SECONDS": "5",
    "KAITO_GARBAGE_INTERVAL_SECONDS": "5",
    "KAITO_REGISTRATION_TIMEOUT_SECONDS": "20",
    "KAITO_NODE_GRACE_SECONDS": "20",
    "KAITO_DRAIN_TIMEOUT_SECONDS": "5",
}


def bad_weather(fleet: Fleet) -> dict[str, Fault]:
    """Faults of the cloud by what they are called in the report."""
    faults = {
        "401": Fault(error=ArmError(401, "ExpiredAuthenticationToken", "The token has expired."), count=-1, share=0.02),
        "409": Fault(
            "PUT",
            error=ArmError(409, "OperationNotAllowed", "Another operation (Updating) is in progress", flat=True),
            count=-1,
            share=0.05,
        ),
        "409 of a deletion": Fault(
            "DELETE",
            error=ArmError(409, "OperationNotAllowed", "Another operation (Updating) is in progress", flat=True),
            count=-1,
            share=0.05,
        ),
        "429": Fault(
            error=ArmError(429, "TooManyRequests", "Slow down.", headers={"Retry-After": "2"}), count=-1, share=0.01
        ),
        "500": Fault(error=ArmError(500, "InternalServerError", "Oops."), count=-1, share=0.03),
        "503 without a word": Fault(error=ArmError(503, "", ""), count=-1, share=0.02),
        "403": Fault("DELETE", error=ArmError(403, "AuthorizationFailed", "You may not."), count=-1, share=0.01),
        "a timeout": Fault(delay=40.0, drop="after", count=-1, share=0.003),
        "late": Fault(delay=2.0, count=-1, share=0.03),
        "reset before": Fault(drop="before", count=-1, share=0.02),
        "reset after": Fault(drop="after", count=-1, share=0.02),
        "quota": Fault("PUT", error=ArmError(400, "ErrCode_InsufficientVCPUQuota", "No cores."), count=-1, share=0.01),
    }
    for fault in faults.values():
        fleet.arm.faults.add(fault)
    capacity = ArmError(200, "AllocationFailed", "There are none left.")
    internal = ArmError(200, "ReconcileVMSSAgentPoolFailed", "It failed.", details=[{"code": "X", "message": "why"}])
    fleet.arm.faults.plan(Plan(error=capacity), count=-1, share=0.05)
    fleet.arm.faults.plan(Plan(error=internal), count=-1, share=0.05)
    fleet.arm.faults.plan(Plan(seconds=25.0, error=ArmError(200, "OperationTimedOut", "Stuck.")), count=-1, share=0.02)
    fleet.arm.faults.plan(Plan(nodes=0), count=-1, share=0.02)
    fleet.arm.faults.plan(Plan(nodes=2), count=-1, share=0.01)
    return faults


async def come_and_go(fleet: Fleet, most: int, rng: random.Random, wanted: set[str]) -> None:
    """Machines are created and deleted at random, until cancelled."""
    number = 0
    while True:
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        if wanted and rng.random() < len(wanted) / (1.2 * most):
            name = rng.choice(sorted(wanted))
            wanted.discard(name)
            await fleet.delete(name)
        elif len(wanted) < most:
            number += 1
            name = f"{'nc' if number % 4 == 0 else 'ws'}{number:05d}"
            wanted.add(name)
            await fleet.make(name)


async def cut_watches(fleet: Fleet, rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.uniform(2.0, 8.0))
        for operator in fleet.operators:
            operator.front.cut_watches()


async def kill_leader(fleet: Fleet, times: int, seconds: float) -> None:
    """At even distances; each comes back as a follower."""
    for _ in range(times):
        await asyncio.sleep(seconds / (times + 1))
        leader = fleet.leader
        while leader is None:
            await asyncio.sleep(0.1)
            leader = fleet.leader
        print(f"  killing {leader.name}, which leads")
        leader.kill()
        await asyncio.sleep(5.0)
        leader.start()


async def run(minutes: float, most: int, seed: int, folder: Path) -> list[str]:
    """What is wrong in the end."""
    rng = random.Random(seed)
    options = ArmOptions(site=SITE, create_seconds=2.0, delete_seconds=1.0, page_size=50)
    async with Fleet(folder, options, operators=2, environ=ENVIRON) as fleet:
        for operator in fleet.operators:
            operator.start()

        async def led() -> bool:
            return fleet.leader is not None

        await until(led, "somebody leads", 30.0)
        faults = bad_weather(fleet)
        wanted: set[str] = set()
        seconds = minutes * 60
        tasks = [
            asyncio.create_task(come_and_go(fleet, most, rng, wanted)),
            asyncio.create_task(cut_watches(fleet, rng)),
            asyncio.create_task(kill_leader(fleet, 2, seconds)),
        ]
        ends = time.monotonic() + seconds
        try:
            while (left := ends - time.monotonic()) > 0:
                done, _ = await asyncio.wait(tasks[:2], timeout=min(30.0, left))
                for task in done:
                    task.result()
                machines = await fleet.machines()
                ready = sum(is_true(each.status.conditions, "Ready") for each in machines)
                print(f"  {len(wanted)} wanted, {len(machines)} there, {ready} Ready, {len(fleet.arm.pools)} pools")
            await tasks[2]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        fleet.arm.faults.clear()
        print("  the weather clears")
        wrong = await settle(fleet, wanted)
        wrong += fleet.law.violations[:10]
        missing = [name for name, fault in faults.items() if not fault.hits]
        if missing and minutes >= FULL:
            wrong.append(f"the cloud never failed with: {', '.join(missing)}")
        wrong += [f"{each.name}: {line}" for each in fleet.operators for line in panics(each.log)]
        report(fleet, faults)
        return wrong


async def settle(fleet: Fleet, wanted: set[str]) -> list[str]:
    async def converged() -> bool:
        return not await differences(fleet, wanted)

    try:
        took = await until(converged, "convergence", CONVERGED)
    except TimeoutError:
        return await differences(fleet, wanted)
    print(f"  all is well {took:.1f} s later")
    return []


async def differences(fleet: Fleet, wanted: set[str]) -> list[str]:
    machines = {each.metadata.name: each for each in await fleet.machines()}
    wrong = [f"Machine {name} has gone by itself" for name in sorted(wanted - machines.keys())]
    wrong += [f"Machine {name} is still there" for name in sorted(machines.keys() - wanted)]
    wrong += [f"pool {name} belongs to no Machine" for name in sorted(fleet.arm.pools.keys() - machines.keys())]
    wrong += [f"Machine {name} has no pool" for name in sorted(machines.keys() - fleet.arm.pools.keys())]
    for name in sorted(wanted & machines.keys()):
        conditions = machines[name].status.conditions
        if not is_true(conditions, "Ready"):
            said = [f"{each.type}={each.status}/{each.reason}: {each.message}" for each in conditions or ()]
            wrong.append(f"Machine {name} is not Ready: {said}")
    nodes = Counter(node["metadata"]["labels"]["agentpool"] for node in await fleet.nodes())
    wrong += [f"pool {name} has {count} Nodes" for name, count in nodes.items() if count != 1 or name not in machines]
    return wrong


def panics(log: Path) -> list[str]:
    """Lines of a log that no correct program writes."""
    marks = ("Traceback", "AssertionError", "AttributeError", "KeyError", "TypeError", '"level": "critical"')
    text = log.read_text(errors="replace") if log.exists() else ""
    return [line[:600] for line in text.splitlines() if any(mark in line for mark in marks)][:5]


def report(fleet: Fleet, faults: dict[str, Fault]) -> None:
    print(f"  faults: {', '.join(f'{name} {fault.hits}' for name, fault in faults.items())}")
    print(f"  requests to Azure: {dict(Counter(request.method for request in fleet.arm.requests))} (the newest)")
    print(f"  writes by operator: {dict(fleet.law.writes)}; without the lease: {len(fleet.law.violations)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=FULL, help="of bad weather; default: 5")
    parser.add_argument("--machines", type=int, default=200, help="at most at a time; default: 200")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the operators' logs go; default: gone in the end")
    arguments = parser.parse_args()
    print(f"chaos: {arguments.minutes:g} minutes, {arguments.machines} Machines, seed {arguments.seed}")
    with tempfile.TemporaryDirectory(prefix="kaito-chaos-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        wrong = asyncio.run(run(arguments.minutes, arguments.machines, arguments.seed, folder))
    for line in wrong:
        print(f"WRONG: {line}")
    print("chaos: failed" if wrong else "chaos: passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
