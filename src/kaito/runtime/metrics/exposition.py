"""Prometheus' families, made of the runtime's series when a registry is asked for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kaito.runtime.metrics.controllers import ControllerMetrics, QueueStatistics
from kaito.runtime.metrics.series import Family, Histogram

MAX_PRIORITY_LABELS = 25
"""Priorities that get a label value of their own; deeper ones share ``exceeded_cardinality_limit``."""


def registry(
    families: Iterable[Family[Any]],
    queues: dict[str, Callable[[], QueueStatistics]],
    controllers: dict[str, ControllerMetrics],
) -> CollectorRegistry:
    """A registry that shows what its arguments hold at each scrape; queues and controllers are by name."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated there
    made = CollectorRegistry(auto_describe=False)
    made.register(_QueueCollector(queues))
    made.register(_ControllerCollector(controllers))
    made.register(_FamilyCollector(families))
    return made


@final
class _FamilyCollector(Collector):
    def __init__(self, families: Iterable[Family[Any]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        makers = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for family in self._families:
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.name, family.text, labels=family.label_names)
                for labels, counted in family.series.items():
                    histogram.add_metric(labels, _cumulative(counted), counted.total)
                yield histogram
            else:
                numbers = makers[family.kind](family.name, family.text, labels=family.label_names)
                for labels, number in family.series.items():
                    numbers.add_metric(labels, number.value)
                yield numbers


@final
class _QueueCollector(Collector):
    def __init__(self, sources: dict[str, Callable[[], QueueStatistics]]) -> None:
        self._sources = sources

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
        for controller, statistics in self._sources.items():
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
    def __init__(self, sources: dict[str, ControllerMetrics]) -> None:
        self._sources = sources

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
        for controller, counted in self._sources.items():
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


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    count = 0
    for bound, in_bucket in zip((*map(floatToGoString, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        count += in_bucket
        buckets.append((bound, count))
    return buckets
