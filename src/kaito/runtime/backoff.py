"""Exponential back-off with jitter and reset, and the ``Retry-After`` header."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import final

import msgspec


class BackoffPolicy(msgspec.Struct, frozen=True):
    """Delays in seconds: ``base``, ``base·factor``, … up to ``cap``, each stretched by up to ``jitter`` of itself."""

    base: float
    cap: float
    factor: float = 2.0
    jitter: float = 0.0
    reset_after: float = float("inf")
    """Seconds without a failure after which the delays start over."""


REFLECTOR_BACKOFF = BackoffPolicy(base=0.8, cap=30.0, jitter=1.0, reset_after=120.0)
"""Same numbers as client-go's reflector."""


@final
class Backoff:
    """The state of one retry loop: no clock and no sleep of its own."""

    __slots__ = ("_failures", "_last", "_policy", "_random")

    def __init__(self, policy: BackoffPolicy, *, rng: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._random = rng
        self._failures = 0
        self._last = float("-inf")

    @property
    def failures(self) -> int:
        return self._failures

    def next(self, now: float) -> float:
        """Seconds to wait after a failure at ``now``."""
        policy = self._policy
        if now - self._last > policy.reset_after:
            self._failures = 0
        self._last = now
        # The exponent is bounded so that a long outage cannot overflow a float.
        delay = min(policy.cap, policy.base * policy.factor ** min(self._failures, 64))
        self._failures += 1
        return delay * (1.0 + policy.jitter * self._random())

    def reset(self) -> None:
        self._failures = 0


def retry_after(header: str | None, now: datetime, *, cap: float = 60.0) -> float | None:
    """Seconds asked for by a ``Retry-After`` header (a number or an HTTP date), at most ``cap``; None without one."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    if seconds != seconds:
        return None
    return min(max(seconds, 0.0), cap)
