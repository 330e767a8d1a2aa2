"""Metrics with controller-runtime's and client-go's names, labels and buckets, so that their dashboards work unchanged.

Nothing is global: every manager has a ``RuntimeMetrics`` on a registry of its own. The work queues count for themselves and
are read when the registry is scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

RECONCILE_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0,
)  # fmt: skip
REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
SIZE_BUCKETS = tuple(
    float(size) for size in (64, 256, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
)
DURATION_BUCKETS = tuple(1e-8 * 10**n for n in range(12))
"""Upper bounds in seconds of the queue's histograms; same as controller-runtime's."""
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
MAX_PRIORITY_LABELS = 25
"""Priorities that get a label value of their own; deeper ones share ``exceeded_cardinality_limit``."""

RECONCILE_RESULTS = ("error", "requeue", "requeue_after", "success")


@final
class DurationHistogram:
    """Counts per bucket of ``bounds``, upper bounds in seconds, and beyond."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = DURATION_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    depth: dict[int, int]
    """Ready keys by priority."""
    waiting: int
    processing: int
    adds: int
    retries: int
    queue_duration: DurationHistogram
    work_duration: DurationHistogram
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
        self.time = DurationHistogram(RECONCILE_BUCKETS)

    def failed(self, reason: str) -> None:
        """``reason`` is the name of the error's class."""
        self.errors += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


@final
class RuntimeMetrics:
    """Every metric that the runtime reports, on ``registry``."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
        self.registry = registry or CollectorRegistry(auto_describe=False)
        self._queues = _QueueCollector()
        self._controllers = _ControllerCollector()
        self.registry.register(self._queues)
        self.registry.register(self._controllers)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=tuple(buckets), registry=self.registry)

        prefix = "controller_runtime"
        self.requests_total = counter("rest_client_requests_total", "HTTP requests", "code", "method", "host")
        self.request_duration = histogram(
            "rest_client_request_duration_seconds", "Length of an HTTP request", REQUEST_BUCKETS, "verb", "host"
        )
        self.rate_limiter_duration = histogram(
            "rest_client_rate_limiter_duration_seconds",
            "Wait for the client-side rate limit",
            REQUEST_BUCKETS,
            "verb",
            "host",
        )
        self.request_size = histogram(
            "rest_client_request_size_bytes", "Size of a request body", SIZE_BUCKETS, "verb", "host"
        )
        self.response_size = histogram(
            "rest_client_response_size_bytes", "Size of a response body", SIZE_BUCKETS, "verb", "host"
        )
        self.request_retries_total = counter(
            "rest_client_request_retries_total", "HTTP requests sent again", "code", "verb", "host"
        )

        self.leader = gauge("leader_election_master_status", "1 where this process leads", "name")
        self.leader_slowpath_total = counter(
            "leader_election_slowpath_total", "Lease renewals that had to read the lease first", "name"
        )

        self.webhook_latency = histogram(
            f"{prefix}_webhook_latency_seconds", "Length of an admission request", DURATION_BUCKETS, "webhook"
        )
        self.webhook_requests_total = counter(
            f"{prefix}_webhook_requests_total", "Admission requests by HTTP code", "webhook", "code"
        )
        self.webhook_requests_in_flight = gauge(
            f"{prefix}_webhook_requests_in_flight", "Admission requests being answered", "webhook"
        )
        self.webhook_panics_total = counter(f"{prefix}_webhook_panics_total", "Admission requests that met a bug")
        self.conversion_webhook_panics_total = counter(
            f"{prefix}_conversion_webhook_panics_total", "Conversion requests that met a bug"
        )
        self.certificate_reads_total = counter("certwatcher_read_certificate_total", "Reads of the certificate files")
        self.certificate_read_errors_total = counter(
            "certwatcher_read_certificate_errors_total", "Reads of the certificate files that failed"
        )

        own = "kaito_runtime"
        self.informer_revision = gauge(
            f"{own}_informer_store_resource_version", "Newest resource version seen", "resource"
        )
        self.informer_objects = gauge(f"{own}_informer_objects", "Objects in the store", "resource")
        self.informer_synced = gauge(f"{own}_informer_synced", "1 once the first list is in the store", "resource")
        self.informer_bytes = gauge(f"{own}_informer_bytes", "Bytes of the objects in the store", "resource")
        self.informer_last_event_age = gauge(
            f"{own}_informer_last_event_age_seconds", "Seconds since the server said anything", "resource"
        )
        self.informer_restarts_total = counter(
            f"{own}_informer_restarts_total", "Lists and watches started again", "resource", "reason"
        )
        self.decode_errors_total = counter(
            f"{own}_informer_decode_errors_total", "Objects that did not decode", "resource"
        )
        self.handler_errors_total = counter(
            f"{own}_informer_handler_errors_total", "Errors raised by event handlers and index functions", "resource"
        )
        self.loop_lag = gauge(f"{own}_event_loop_lag_seconds", "Longest delay of the event loop in the last seconds")
        self.runnable_restarts_total = counter(
            f"{own}_runnable_restarts_total", "Runnables that failed and were started again", "runnable"
        )
        self.loop_lag_seconds = histogram(
            f"{own}_event_loop_delay_seconds", "Delays of the event loop, measured 20 times a second", LAG_BUCKETS
        )
        self.loop_holds_total = counter(
            f"{own}_event_loop_holds_total", "Times that one piece of work held the event loop over 100 ms", "holder"
        )
        self.fence_refusals_total = counter(f"{own}_fence_refusals_total", "Writes refused without a certain lease")

    def for_controller(self, controller: str, max_concurrent: int) -> ControllerMetrics:
        """The series of ``controller``, all at zero from the start so that ``rate()`` works. They outlive it."""
        found = self._controllers.sources.setdefault(controller, ControllerMetrics(max_concurrent))
        found.max_concurrent = max_concurrent
        return found

    def watch_queue(self, controller: str, statistics: Callable[[], QueueStatistics]) -> None:
        """Report the queue of ``controller`` from now on."""
        self._queues.sources[controller] = statistics

    def forget_queue(self, controller: str) -> None:
        """The queue of ``controller`` is no more."""
        self._queues.sources.pop(controller, None)


@final
class _QueueCollector(Collector):
    def __init__(self) -> None:
        self.sources: dict[str, Callable[[], QueueStatistics]] = {}

    def collect(self) -> Iterator[Metric]:
        labels = ["name", "controller"]
        depth = GaugeMetricFamily("workqueue_depth", "Keys ready to be worked on", labels=[*labels, "priority"])
        adds = CounterMetricFamily("workqueue_adds_total", "Keys that became ready", labels=labels)
        retries = CounterMetricFamily("workqueue_retries_total", "Keys queued again after a failure", labels=labels)
        waited = HistogramMetricFamily("workqueue_queue_duration_seconds", "Wait from ready to taken", labels=labels)
        worked = HistogramMetricFamily("workqueue_work_duration_seconds", "Length of the work on a key", labels=labels)
        unfinished = GaugeMetricFamily(
            "workqueue_unfinished_work_seconds", "Seconds of work in progress, summed over keys", labels=labels
        )
        longest = GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds",
            "Seconds the oldest work in progress has taken",
            labels=labels,
        )
        for controller, statistics in self.sources.items():
            now = statistics()
            label = [controller, controller]
            for priority, count in _bounded(now.depth).items():
                depth.add_metric([*label, priority], count)
            adds.add_metric(label, now.adds)
            retries.add_metric(label, now.retries)
            waited.add_metric(label, _cumulative(now.queue_duration), now.queue_duration.total)
            worked.add_metric(label, _cumulative(now.work_duration), now.work_duration.total)
            unfinished.add_metric(label, now.unfinished_seconds)
            longest.add_metric(label, now.longest_running_seconds)
        yield from (depth, adds, retries, waited, worked, unfinished, longest)


@final
class _ControllerCollector(Collector):
    def __init__(self) -> None:
        self.sources: dict[str, ControllerMetrics] = {}

    def collect(self) -> Iterator[Metric]:
        labels, prefix = ["controller"], "controller_runtime"
        results = CounterMetricFamily(f"{prefix}_reconcile_total", "Reconciles by result", labels=[*labels, "result"])
        errors = CounterMetricFamily(f"{prefix}_reconcile_errors_total", "Failed reconciles", labels=labels)
        reasons = CounterMetricFamily(
            "kaito_runtime_reconcile_errors_total", "Failed reconciles by reason", labels=[*labels, "reason"]
        )
        terminal = CounterMetricFamily(
            f"{prefix}_terminal_reconcile_errors_total", "Reconciles that failed for good", labels=labels
        )
        panics = CounterMetricFamily(f"{prefix}_reconcile_panics_total", "Reconciles that raised a bug", labels=labels)
        timeouts = CounterMetricFamily(
            f"{prefix}_reconcile_timeouts_total", "Reconciles stopped by their time limit", labels=labels
        )
        times = HistogramMetricFamily(f"{prefix}_reconcile_time_seconds", "Length of a reconcile", labels=labels)
        workers = GaugeMetricFamily(f"{prefix}_max_concurrent_reconciles", "Workers", labels=labels)
        active = GaugeMetricFamily(f"{prefix}_active_workers", "Workers that are reconciling", labels=labels)
        for controller, counted in self.sources.items():
            for result, count in counted.results.items():
                results.add_metric([controller, result], count)
            errors.add_metric([controller], counted.errors)
            for reason, count in counted.reasons.items():
                reasons.add_metric([controller, reason], count)
            terminal.add_metric([controller], counted.terminal_errors)
            panics.add_metric([controller], counted.panics)
            timeouts.add_metric([controller], counted.timeouts)
            times.add_metric([controller], _cumulative(counted.time), counted.time.total)
            workers.add_metric([controller], counted.max_concurrent)
            active.add_metric([controller], counted.active)
        yield from (results, errors, reasons, terminal, panics, timeouts, times, workers, active)


def _bounded(depth: dict[int, int]) -> dict[str, int]:
    bounded = {"0": depth.get(0, 0)}
    others = sorted((priority for priority in depth if priority), reverse=True)
    for priority in others[: MAX_PRIORITY_LABELS - 1]:
        bounded[str(priority)] = depth[priority]
    rest = others[MAX_PRIORITY_LABELS - 1 :]
    if rest:
        bounded["exceeded_cardinality_limit"] = sum(depth[priority] for priority in rest)
    return bounded


def _cumulative(histogram: DurationHistogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    count = 0
    for bound, in_bucket in zip((*map(repr, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        count += in_bucket
        buckets.append((bound, count))
    return buckets
