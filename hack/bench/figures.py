"""What was measured, and the tables that show it."""

from __future__ import annotations

from dataclasses import dataclass

from hack.bench.micro import Parts


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One contender at one size. Times in seconds, memory in MB."""

    kind: str
    """Plural of the objects' kind."""
    contender: str
    count: int
    reconciled: float
    peak: float
    settled: float
    cpu: float
    latency: list[float]
    churn_lag: list[float]
    churn_rate: float

    @property
    def latency_p50(self) -> float:
        return quantile(self.latency, 0.5)

    @property
    def lag_p99(self) -> float:
        return quantile(self.churn_lag, 0.99)


def quantile(values: list[float], share: float) -> float:
    """Infinite where there are no values: what did not happen in time."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


_HEADER = [
    "contender", "sync + first reconcile, s", "ratio", "peak RSS, MB", "settled RSS, MB", "ratio", "CPU to sync, s",
    "latency p50, ms", "p99, ms", "loop lag p99 under churn, ms", "events/s",
]  # fmt: skip


def contenders_table(measured: list[Figures]) -> str:
    """One row each; ratios are to the first."""
    return table([_row(figures, measured[0]) for figures in measured], _HEADER)


def parts_table(parts: Parts) -> str:
    rows = [
        ["queue: add + get + done of one key", f"{parts.queue:,.0f} /s"],
        ["reconciles that do nothing", f"{parts.reconciles:,.0f} /s"],
    ]
    return table(rows, ["part", "rate"])


def _row(figures: Figures, base: Figures) -> list[str]:
    return [
        figures.contender,
        f"{figures.reconciled:.2f}",
        f"{figures.reconciled / base.reconciled:.1f}x",
        f"{figures.peak:.0f}",
        f"{figures.settled:.0f}",
        f"{figures.settled / base.settled:.1f}x",
        f"{figures.cpu:.1f}",
        f"{figures.latency_p50 * 1e3:.2f}",
        f"{quantile(figures.latency, 0.99) * 1e3:.2f}",
        f"{figures.lag_p99 * 1e3:.1f}",
        f"{figures.churn_rate:.0f}",
    ]


def table(rows: list[list[str]], header: list[str]) -> str:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
