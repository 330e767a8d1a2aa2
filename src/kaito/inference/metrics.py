"""What Prometheus is told of the model server."""

from __future__ import annotations

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@final
class Metrics:
    """A registry of its own, so that servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        prefix = "kaito_inference"
        self.requests = Counter(
            f"{prefix}_requests_total", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.cancelled = Counter(
            f"{prefix}_cancelled_total", "Requests whose client went away before the answer", registry=registry
        )
        self.rejected = Counter(
            "kaito_ratelimit_rejected_total", "Requests refused because the queue was full", registry=registry
        )
        self.prompt_tokens = Counter(f"{prefix}_prompt_tokens_total", "Tokens of prompts", ["model"], registry=registry)
        self.generation_tokens = Counter(
            f"{prefix}_generation_tokens_total", "Tokens generated", ["model"], registry=registry
        )
        self.running = Gauge(f"{prefix}_sequences_running", "Sequences that are being generated", registry=registry)
        self.waiting = Gauge(f"{prefix}_sequences_waiting", "Sequences that wait for their turn", registry=registry)
        self.ready = Gauge(f"{prefix}_ready", "1 while the server takes requests", registry=registry)
        self.first_token = Histogram(
            f"{prefix}_time_to_first_token_seconds",
            "From the request to its first token, waiting included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            f"{prefix}_request_duration_seconds", "From the request to its end", buckets=_SECONDS, registry=registry
        )

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
