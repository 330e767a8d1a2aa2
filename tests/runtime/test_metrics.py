"""The runtime counts for itself; what a scrape shows is what prometheus_client would have shown."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kaito.runtime import RuntimeMetrics
from kaito.runtime.metrics.runtime import LAG_BUCKETS, SIZE_BUCKETS


def lines(registry: CollectorRegistry, *names: str) -> list[str]:
    text = generate_latest(registry).decode()
    return [
        line for line in text.splitlines() if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(names)
    ]


def test_a_scrape_shows_what_prometheus_client_itself_would_show() -> None:
    metrics, registry = RuntimeMetrics(), CollectorRegistry()
    requests = Counter("rest_client_requests_total", "HTTP requests", ("code", "method", "host"), registry=registry)
    size = Histogram(
        "rest_client_request_size_bytes",
        "Size of a request body",
        ("verb", "host"),
        buckets=SIZE_BUCKETS,
        registry=registry,
    )
    leader = Gauge("leader_election_master_status", "1 where this process leads", ("name",), registry=registry)
    delay = Histogram(
        "kaito_runtime_event_loop_delay_seconds",
        "Delays of the event loop, measured 20 times a second",
        buckets=LAG_BUCKETS,
        registry=registry,
    )
    for counter in (requests, metrics.requests_total):
        counter.labels("200", "GET", 'a "host"').inc()
        counter.labels("200", "GET", 'a "host"').inc(2)
        counter.labels("500", "GET", "b").inc()
    for gauge in (leader, metrics.leader):
        gauge.labels("x").set(3)
        gauge.labels("x").dec()
    for sizes in (size, metrics.request_size):
        for observed in (0, 64, 65, 1 << 20, 17 << 20):
            sizes.labels("PUT", "a").observe(observed)
    for delays in (delay, metrics.loop_lag_seconds):
        delays.observe(0.002)

    names = (
        "rest_client_requests_total",
        "leader_election_master",
        "rest_client_request_size",
        "kaito_runtime_event_loop_delay",
    )
    shown = lines(metrics.registry, *names)

    assert shown == lines(registry, *names)
    assert len(shown) > 30


def test_a_series_that_is_not_labelled_is_shown_before_it_counts_and_a_labelled_one_once_it_is_named() -> None:
    metrics = RuntimeMetrics()
    assert metrics.registry.get_sample_value("kaito_runtime_fence_refusals_total") == 0
    assert metrics.registry.get_sample_value("kaito_runtime_informer_objects", {"resource": "pods"}) is None
    metrics.informer_objects.labels("pods")
    assert metrics.registry.get_sample_value("kaito_runtime_informer_objects", {"resource": "pods"}) == 0


def test_a_series_has_a_value_for_each_label() -> None:
    with pytest.raises(ValueError, match=r"kaito_runtime_informer_objects has the labels \('resource',\), not"):
        RuntimeMetrics().informer_objects.labels("pods", "x")
