"""What a controller and its queue count."""

from __future__ import annotations

from typing import NamedTuple, final

from kaito.runtime.metrics.series import Histogram

RECONCILE_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0,
)  # fmt: skip
DURATION_BUCKETS = tuple(1e-8 * 10**n for n in range(12))
"""Upper bounds in seconds of the queue's histograms; same as controller-runtime's."""

RECONCILE_RESULTS = ("error", "requeue", "requeue_after", "success")


class QueueStatistics(NamedTuple):
    depth: dict[int, int]
    """Ready keys by priority."""
    waiting: int
    processing: int
    adds: int
    retries: int
    queue_duration: Histogram
    work_duration: Histogram
    unfinished_seconds: float
    """Sum of the ages of the keys that are being worked on."""
    longest_running_seconds: float


@final
class ControllerMetrics:
    """What one controller has counted: plain numbers, which its workers change and a scrape reads."""

    __slots__ = (
        "active",
        "errors",
        "max_concurrent",
        "panics",
        "reasons",
        "results",
        "terminal_errors",
        "time",
        "timeouts",
    )

    def __init__(self, max_concurrent: int) -> None:
        self.max_concurrent = max_concurrent
        self.results = dict.fromkeys(RECONCILE_RESULTS, 0)
        self.reasons: dict[str, int] = {}
        """Errors by reason."""
        self.errors = self.terminal_errors = self.panics = self.timeouts = self.active = 0
        self.time = Histogram(RECONCILE_BUCKETS)

    def failed(self, reason: str) -> None:
        """``reason`` is the name of the error's class."""
        self.errors += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
