"""What the runtime has to reach, and whether it did in this run."""

from __future__ import annotations

from dataclasses import dataclass

from hack.bench.figures import Figures, table
from hack.bench.micro import Parts
from hack.bench.settled import Run
from hack.bench.start import Beside, Imports

SETTLED = (1_000, 5_000, 10_000)
"""Numbers of Workspaces that are measured."""
_ASKED_RATE = 500
_HELD = 0.95
"""Share of the asked rate of changes from which on it counts as held."""


@dataclass(frozen=True)
class Goal:
    text: str
    measured: str = "not measured in this run"
    met: bool | None = None
    """None where it was not measured, or not as it is stated."""


def judge(
    measured: list[Figures], parts: Parts, imports: Imports, settled: dict[int, Run], beside: Beside | None
) -> list[Goal]:
    """All goals, in the order in which they are stated. ``settled`` is by number of Workspaces."""
    return [
        *_beside_kopf(measured),
        *(_memory(measured, count, limit) for count, limit in ((10_000, 130), (50_000, 350))),
        _lag(measured),
        _rate("reconciles that do nothing: at least 20,000/s", parts.reconciles, 20_000),
        _rate("queue, add + get + done: at least 200,000/s", parts.queue, 200_000),
        _imports(imports),
        _beside(beside),
        *_settled(settled),
    ]


def _imports(imports: Imports) -> Goal:
    text = "what a controller needs of kaito.runtime: imported in 1.3x the time of aiohttp, without typer or pydantic"
    ratio = imports.runtime / imports.aiohttp
    shown = f"{ratio:.2f}x, {imports.runtime:.2f} s" + "".join(f", with {name}" for name in imports.unwanted)
    return Goal(text, shown, ratio <= 1.3 and not imports.unwanted)


def _beside(beside: Beside | None) -> Goal:
    text = "10,000 pods, from process start to all reconciled: at most 0.6 of the base's time"
    if beside is None:
        return Goal(text)
    share = beside.here / beside.base
    return Goal(text, f"{share:.2f} of it: {beside.here:.2f} s, base {beside.base:.2f} s", share <= 0.6)


def _settled(settled: dict[int, Run]) -> list[Goal]:
    small, middle, large = (settled.get(count) for count in SETTLED)
    where = f"{SETTLED[1]:,} settled Workspaces, 1,000 nodes of 12 KB"
    return [
        _restart(f"{where}, restart: lease kept, all looked at in 20 s, no write, no block over 100 ms", middle, 20.0),
        _restart(f"{SETTLED[2]:,} settled Workspaces, restart: lease kept", large, None),
        _limit("an unchanged Workspace costs under 500 µs of CPU", None if small is None else small.look, 500e-6),
        Goal(f"at {SETTLED[2]:,} at most 1.5 times what it costs at {SETTLED[0]:,}")
        if small is None or large is None
        else Goal(
            f"at {SETTLED[2]:,} at most 1.5 times what it costs at {SETTLED[0]:,}",
            f"{large.look / small.look:.2f}x",
            large.look <= 1.5 * small.look,
        ),
        _limit(
            f"a Node change that matters, with {SETTLED[1]:,} Workspaces: under 1 ms",
            None if middle is None else middle.node_change,
            1e-3,
        ),
    ]


def _restart(text: str, run: Run | None, within: float | None) -> Goal:
    if run is None:
        return Goal(text)
    shown = (
        f"lease {'kept' if run.kept else 'lost'}, {run.looked_at:.1f} s, {run.writes} writes, "
        f"longest block at most {run.longest_block * 1e3:.0f} ms"
    )
    met = run.kept
    if within is not None:
        met = met and run.looked_at <= within and run.writes == 0 and run.longest_block <= 0.1
    return Goal(text, shown, met)


def _limit(text: str, seconds: float | None, limit: float) -> Goal:
    return Goal(text) if seconds is None else Goal(text, f"{seconds * 1e6:.0f} µs", seconds < limit)


def _find(measured: list[Figures], kind: str, count: int, contender: str) -> Figures | None:
    wanted = (kind, count, contender)
    return next((one for one in measured if (one.kind, one.count, one.contender) == wanted), None)


def _beside_kopf(measured: list[Figures]) -> list[Goal]:
    where = "5,000 custom resources: "
    texts = (
        where + "sync + first reconcile at least 4x faster than kopf",
        where + "settled RSS at most half of kopf's",
        where + "latency p50 no worse than kopf's",
    )
    kaito, kopf = (_find(measured, "widgets", 5_000, name) for name in ("kaito", "kopf"))
    if kaito is None or kopf is None:
        return [Goal(text) for text in texts]
    faster, share = kopf.reconciled / kaito.reconciled, kaito.settled / kopf.settled
    return [
        Goal(texts[0], f"{faster:.1f}x", faster >= 4),
        Goal(texts[1], f"{share:.2f} of it", share <= 0.5),
        Goal(
            texts[2],
            f"{kaito.latency_p50 * 1e3:.2f} ms, kopf {kopf.latency_p50 * 1e3:.2f} ms",
            kaito.latency_p50 <= kopf.latency_p50,
        ),
    ]


def _memory(measured: list[Figures], count: int, limit: float) -> Goal:
    text = f"{count:,} pods: settled RSS under {limit:.0f} MB"
    kaito = _find(measured, "pods", count, "kaito")
    return Goal(text) if kaito is None else Goal(text, f"{kaito.settled:.1f} MB", kaito.settled < limit)


def _lag(measured: list[Figures]) -> Goal:
    """Of the kinds that were measured at this size, the worst; a small lag at a lower rate of changes proves nothing."""
    text = f"50,000 objects, {_ASKED_RATE} events/s: loop lag p99 under 50 ms"
    found = [one for one in measured if (one.count, one.contender) == (50_000, "kaito")]
    if not found:
        return Goal(text)
    worst = max(found, key=lambda one: one.lag_p99)
    slowest = min(one.churn_rate for one in found)
    held = slowest >= _HELD * _ASKED_RATE
    shown = f"{worst.lag_p99 * 1e3:.1f} ms at {'' if held else 'only '}{slowest:.0f} events/s"
    if worst.lag_p99 >= 0.05:
        return Goal(text, shown, False)
    return Goal(text, shown, True if held else None)


def _rate(text: str, rate: float, least: float) -> Goal:
    return Goal(text, f"{rate:,.0f}/s", rate >= least)


def goals_table(goals: list[Goal]) -> str:
    words = {True: "yes", False: "NO", None: "-"}
    return table([[goal.text, goal.measured, words[goal.met]] for goal in goals], ["goal", "measured", "met"])
