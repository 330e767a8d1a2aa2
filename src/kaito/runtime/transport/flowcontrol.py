"""Client-side rate limit, and which answers are worth asking for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import final

MAX_RETRIES = 10
"""Times a request is sent again after 429 or a 5xx that names a delay; same as client-go."""


@final
class TokenBucket:
    """``qps`` tokens a second, at most ``burst`` saved up; ``qps`` 0 is no limit.

    Waiters are served in the order in which they came. A waiter that is cancelled has already spent its token.
    """

    def __init__(self, qps: float, burst: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        if qps < 0 or burst < 1:
            raise ValueError(f"need qps >= 0 and burst >= 1, got {qps} and {burst}")
        self._qps = qps
        self._burst = burst
        self._monotonic = monotonic
        self._tokens = float(burst)
        self._updated = monotonic()

    def reserve(self) -> float:
        """Take a token; the seconds to wait before it may be used."""
        if not self._qps:
            return 0.0
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._qps) - 1.0
        self._updated = now
        return max(0.0, -self._tokens / self._qps)

    async def acquire(self) -> float:
        """Wait for a token; the seconds waited."""
        delay = self.reserve()
        if delay > 0:
            await asyncio.sleep(delay)
        return delay


def retry_answer(code: int, delay: float | None) -> bool:
    """Whether an answer of HTTP ``code`` asks for the request to be sent again: 429 or 5xx with a ``Retry-After``."""
    return delay is not None and (code == 429 or 500 <= code < 600)
