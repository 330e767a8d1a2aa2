"""Metrics with controller-runtime's and client-go's names, labels and buckets, so that their dashboards work unchanged.

Nothing is global: every manager has a ``RuntimeMetrics`` with a registry of its own. The work queues count for themselves and
are read when the registry is scraped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from kaito.runtime.metrics.controllers import DURATION_BUCKETS, ControllerMetrics, QueueStatistics
from kaito.runtime.metrics.series import Family, Histogram, Number, Series

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
SIZE_BUCKETS = tuple(
    float(size) for size in (64, 256, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)
)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@final
class RuntimeMetrics:
    """Every metric that the runtime reports."""

    def __init__(self) -> None:
        self._families: list[Family[Any]] = []
        self._queues: dict[str, Callable[[], QueueStatistics]] = {}
        self._controllers: dict[str, ControllerMetrics] = {}

        def counter(name: str, text: str, *labels: str) -> Family[Number]:
            return self._family(Family("counter", name, text, labels, Number))

        def gauge(name: str, text: str, *labels: str) -> Family[Number]:
            return self._family(Family("gauge", name, text, labels, Number))

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family[Histogram]:
            return self._family(Family("histogram", name, text, labels, lambda: Histogram(buckets)))

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
        self.webhook_panics_total = counter(
            f"{prefix}_webhook_panics_total", "Admission requests that met a bug"
        ).labels()
        self.conversion_webhook_panics_total = counter(
            f"{prefix}_conversion_webhook_panics_total", "Conversion requests that met a bug"
        ).labels()
        self.certificate_reads_total = counter(
            "certwatcher_read_certificate_total", "Reads of the certificate files"
        ).labels()
        self.certificate_read_errors_total = counter(
            "certwatcher_read_certificate_errors_total", "Reads of the certificate files that failed"
        ).labels()

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
        self.loop_lag = gauge(
            f"{own}_event_loop_lag_seconds", "Longest delay of the event loop in the last seconds"
        ).labels()
        self.runnable_restarts_total = counter(
            f"{own}_runnable_restarts_total", "Runnables that failed and were started again", "runnable"
        )
        self.loop_lag_seconds = histogram(
            f"{own}_event_loop_delay_seconds", "Delays of the event loop, measured 20 times a second", LAG_BUCKETS
        ).labels()
        self.loop_holds_total = counter(
            f"{own}_event_loop_holds_total", "Times that one piece of work held the event loop over 100 ms", "holder"
        )
        self.fence_refusals_total = counter(
            f"{own}_fence_refusals_total", "Writes refused without a certain lease"
        ).labels()

    @cached_property
    def registry(self) -> CollectorRegistry:
        """What ``/metrics`` shows. prometheus_client is loaded when somebody asks for it."""
        from kaito.runtime.metrics import exposition

        return exposition.registry(self._families, self._queues, self._controllers)

    def for_controller(self, controller: str, max_concurrent: int) -> ControllerMetrics:
        """The series of ``controller``, all at zero from the start so that ``rate()`` works. They outlive it."""
        found = self._controllers.setdefault(controller, ControllerMetrics(max_concurrent))
        found.max_concurrent = max_concurrent
        return found

    def watch_queue(self, controller: str, statistics: Callable[[], QueueStatistics]) -> None:
        """Report the queue of ``controller`` from now on."""
        self._queues[controller] = statistics

    def forget_queue(self, controller: str) -> None:
        """The queue of ``controller`` is no more."""
        self._queues.pop(controller, None)

    def _family(self, family: Family[Series]) -> Family[Series]:
        self._families.append(family)
        return family
