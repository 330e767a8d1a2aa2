"""How long a work queue waits before it hands out a failed item again."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, final


class RateLimiter(Protocol):
    """Per-item delays. ``failures`` and ``forget`` are about one item; items are compared by equality."""

    def when(self, item: Hashable) -> float:
        """Count one more failure of ``item``; the seconds until it may run again."""
        ...

    def failures(self, item: Hashable) -> int: ...

    def forget(self, item: Hashable) -> None:
        """``item`` succeeded: its next failure starts over."""
        ...


@final
class ExponentialRateLimiter:
    """``base``, ``2·base``, ``4·base`` … seconds, at most ``cap``: controller-runtime's 5 ms to 1000 s by default."""

    def __init__(self, base: float = 0.005, cap: float = 1000.0) -> None:
        if not 0 < base <= cap:
            raise ValueError(f"need 0 < base <= cap, got base {base} and cap {cap}")
        self._base = base
        self._cap = cap
        self._failures: dict[Hashable, int] = {}

    def when(self, item: Hashable) -> float:
        count = self._failures.get(item, 0)
        self._failures[item] = count + 1
        # 2**64 times any base is beyond any cap; larger exponents would overflow a float.
        return min(self._cap, self._base * 2.0 ** min(count, 64))

    def failures(self, item: Hashable) -> int:
        return self._failures.get(item, 0)

    def forget(self, item: Hashable) -> None:
        self._failures.pop(item, None)
