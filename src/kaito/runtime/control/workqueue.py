"""The work queue: de-duplicating, delaying, prioritised, rate limited.

Semantics of controller-runtime's priority queue:

* A key is in the queue at most once; adding it again keeps the higher priority and the earlier time. A raised key goes to
  the end of its new level, a key is never lowered.
* A key that is being worked on is not handed out. Added meanwhile, it is queued once, when ``done`` is called.
* Keys of one priority come out in the order in which they became ready.
* Priorities below zero age, and count as zero after ``ageing`` seconds: a steady flow of urgent keys cannot starve them.
* What a queue holds is bounded by the keys in it, however often those were added, raised or taken.

``PriorityQueue`` is the data structure, synchronous and without a clock. ``WorkQueue`` adds the event loop: waiting
getters, one timer for all delays, shutdown.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import Generic, TypeVar, final

from kaito.runtime.control.ratelimit import ExponentialRateLimiter, RateLimiter
from kaito.runtime.metrics.controllers import DURATION_BUCKETS, QueueStatistics
from kaito.runtime.metrics.series import Histogram

K = TypeVar("K")

LOW_PRIORITY = -100
"""Priority of keys from an initial list or an unchanged object: after everything that just happened."""

AGEING = 180.0
"""Seconds after which a key of any negative priority comes in its turn with those of priority 0."""

MAX_DELAY = 10 * 365 * 86400.0
"""Longest delay in seconds; an event loop cannot schedule much further."""

_WAITING, _PARKED, _READY, _GONE = range(4)
_STALE = 64
"""Entries of keys that have gone elsewhere which are not worth a clean-up."""


class _Item(Generic[K]):
    __slots__ = ("key", "priority", "ready_at", "since", "state")

    def __init__(self, key: K, priority: int, ready_at: float) -> None:
        self.key = key
        self.priority = priority
        self.ready_at = ready_at
        self.since = 0.0
        self.state = _GONE


@final
class PriorityQueue(Generic[K]):
    """The pure half. Every ``now`` is in seconds of one monotonic clock.

    Heap and levels are pruned lazily: an item that moved leaves a stale entry behind that is skipped by its state.
    """

    __slots__ = ("_ageing", "_entries", "_items", "_levels", "_processing", "_ready", "_sequence", "_waiting", "adds")

    def __init__(self, *, ageing: float = AGEING) -> None:
        self._items: dict[K, _Item[K]] = {}
        self._processing: dict[K, float] = {}
        self._levels: dict[int, deque[_Item[K]]] = {}
        self._waiting: list[tuple[float, int, _Item[K]]] = []
        self._sequence = 0
        self._ready = 0
        self._entries = 0
        self._ageing = ageing
        self.adds = 0

    def __len__(self) -> int:
        """Keys that could be handed out now, or once their current run is done."""
        return self._ready + sum(1 for item in self._items.values() if item.state == _PARKED)

    @property
    def ready(self) -> bool:
        return self._ready > 0

    @property
    def waiting(self) -> int:
        return sum(1 for item in self._items.values() if item.state == _WAITING)

    @property
    def processing(self) -> dict[K, float]:
        """Keys being worked on, with the time each was handed out."""
        return self._processing

    def depth(self) -> dict[int, int]:
        depth: dict[int, int] = {}
        for item in self._items.values():
            if item.state != _WAITING:
                depth[item.priority] = depth.get(item.priority, 0) + 1
        return depth

    def add(self, key: K, now: float, *, priority: int = 0, after: float = 0.0) -> None:
        """Queue ``key``, to be ready ``after`` seconds from now."""
        item = self._items.get(key)
        if item is None:
            item = _Item(key, priority, now + after if after > 0 else 0.0)
            self._items[key] = item
            self._place(item, now, after > 0)
            return
        raised = priority > item.priority
        if raised:
            item.priority = priority
        if item.state == _WAITING:
            if after <= 0:
                self._supersede(item, now, False)
            elif now + after < item.ready_at:
                item.ready_at = now + after
                self._supersede(item, now, True)
            elif raised:
                pass  # the heap is ordered by time alone
        elif raised and item.state == _READY:
            self._ready -= 1
            self.adds -= 1
            since = item.since
            moved = self._supersede(item, now, False)
            moved.since = since

    def _supersede(self, item: _Item[K], now: float, wait: bool) -> _Item[K]:
        """Queue a copy of ``item`` in its new place; the entry in its old place becomes stale."""
        fresh = _Item(item.key, item.priority, item.ready_at)
        item.state = _GONE
        self._items[item.key] = fresh
        self._place(fresh, now, wait)
        return fresh

    def _place(self, item: _Item[K], now: float, wait: bool) -> None:
        if wait:
            item.state = _WAITING
            self._sequence += 1
            heapq.heappush(self._waiting, (item.ready_at, self._sequence, item))
            if len(self._waiting) > 2 * len(self._items) + _STALE:
                self._waiting = [entry for entry in self._waiting if entry[2].state == _WAITING]
                heapq.heapify(self._waiting)
            return
        self.adds += 1
        item.since = now
        if item.key in self._processing:
            item.state = _PARKED
        else:
            self._push_ready(item)

    def _push_ready(self, item: _Item[K]) -> None:
        item.state = _READY
        self._ready += 1
        level = self._levels.get(item.priority)
        if level is None:
            level = self._levels[item.priority] = deque()
        level.append(item)
        self._entries += 1
        if self._entries > 2 * self._ready + _STALE:
            self._prune()

    def _prune(self) -> None:
        """Forget the places that keys have left for others."""
        self._levels = {
            priority: left
            for priority, level in self._levels.items()
            if (left := deque(item for item in level if item.state == _READY))
        }
        self._entries = self._ready

    def promote(self, now: float) -> float | None:
        """Make due keys ready; the time at which the next one falls due, None if none waits."""
        waiting = self._waiting
        while waiting:
            ready_at, _, item = waiting[0]
            if item.state != _WAITING:
                heapq.heappop(waiting)
            elif ready_at <= now:
                heapq.heappop(waiting)
                self._place(item, now, False)
            else:
                return ready_at
        return None

    def pop(self, now: float) -> tuple[K, int, float] | None:
        """Hand out the most urgent ready key with its priority and the seconds it waited; it is processing until ``done``."""
        if not self._ready:
            return None
        item = self._urgent(now)
        item.state = _GONE
        self._ready -= 1
        del self._items[item.key]
        self._processing[item.key] = now
        return item.key, item.priority, now - item.since

    def _urgent(self, now: float) -> _Item[K]:
        best: deque[_Item[K]] | None = None
        best_rank = 0.0
        for priority in tuple(self._levels):
            level = self._levels[priority]
            while level and level[0].state != _READY:
                level.popleft()
                self._entries -= 1
            if not level:
                del self._levels[priority]
                continue
            rank = float(priority)
            if priority < 0:
                rank = min(0.0, priority * (1.0 - (now - level[0].since) / self._ageing))
            if best is None or rank > best_rank or (rank == best_rank and level[0].since < best[0].since):
                best, best_rank = level, rank
        assert best is not None, "a ready item is in one of the levels"
        self._entries -= 1
        return best.popleft()

    def done(self, key: K) -> float | None:
        """The run of ``key`` ended; the time at which it began, None if it was not being worked on."""
        began = self._processing.pop(key, None)
        item = self._items.get(key)
        if item is not None and item.state == _PARKED:
            self._push_ready(item)
        return began

    def retract(self, key: K) -> None:
        """Take back that ``key`` was added while it was being worked on."""
        item = self._items.get(key)
        if item is not None and item.state == _PARKED:
            item.state = _GONE
            del self._items[key]
            self.adds -= 1

    def clear(self) -> None:
        """Drop everything that is queued; what is being worked on stays."""
        self._items.clear()
        self._levels.clear()
        self._waiting.clear()
        self._ready = self._entries = 0


class QueueShutDown(Exception):
    """There is nothing more to get: the queue was shut down."""


@final
class WorkQueue(Generic[K]):
    """A ``PriorityQueue`` on an event loop.

    All methods are for the loop's thread. Cancelling ``get`` loses nothing: a key is taken only after the wait is over, in
    the getter's own step.
    """

    def __init__(
        self,
        *,
        rate_limiter: RateLimiter | None = None,
        ageing: float = AGEING,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._queue: PriorityQueue[K] = PriorityQueue(ageing=ageing)
        self._limiter: RateLimiter = rate_limiter or ExponentialRateLimiter()
        self._loop = loop or asyncio.get_running_loop()
        self._time = self._loop.time
        self._getters: deque[asyncio.Future[None]] = deque()
        self._drained: asyncio.Event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._closed = False
        self._retries = 0
        self._queue_duration = Histogram(DURATION_BUCKETS)
        self._work_duration = Histogram(DURATION_BUCKETS)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def shutting_down(self) -> bool:
        return self._closed

    def add(self, key: K, *, priority: int = 0, after: float = 0.0) -> None:
        """Queue ``key``; see the module for what that does to a key that is queued or being worked on. No-op once shut down.

        ``after`` is in seconds; NaN is refused, anything beyond ten years is ten years.
        """
        if self._closed:
            return
        if after > 0:
            after = min(after, MAX_DELAY)
        elif after != after:
            raise ValueError("a delay cannot be NaN")
        now = self._time()
        self._queue.add(key, now, priority=priority, after=after)
        if after > 0:
            self._arm(now + after)
        elif self._queue.ready:
            self._wake()

    def add_rate_limited(self, key: K, *, priority: int = 0) -> None:
        """Queue ``key`` after its rate limiter's delay, counting one more failure."""
        self._retries += 1
        self.add(key, priority=priority, after=self._limiter.when(key))

    def retract(self, key: K) -> None:
        """Take back that ``key`` was added while it is being worked on; later additions count."""
        self._queue.retract(key)

    def forget(self, key: K) -> None:
        self._limiter.forget(key)

    def failures(self, key: K) -> int:
        return self._limiter.failures(key)

    async def get(self) -> tuple[K, int]:
        """The next key and its priority; call ``done`` with it afterwards. Raises QueueShutDown."""
        while True:
            if self._closed:
                raise QueueShutDown
            now = self._time()
            taken = self._queue.pop(now)
            if taken is not None:
                key, priority, waited = taken
                self._queue_duration.observe(waited)
                return key, priority
            getter: asyncio.Future[None] = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except BaseException:
                if getter in self._getters:
                    self._getters.remove(getter)
                if self._queue.ready:
                    self._wake()
                raise

    def done(self, key: K) -> None:
        """The run of ``key`` is over; if it was added meanwhile, it is ready now."""
        began = self._queue.done(key)
        if began is not None:
            self._work_duration.observe(self._time() - began)
        if self._queue.ready:
            self._wake()
        if self._closed and not self._queue.processing:
            self._drained.set()

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # A timer may fire a clock tick early; what is due within that tick counts as due.
        upcoming = self._queue.promote(max(self._time(), self._timer_due))
        if upcoming is not None:
            self._arm(upcoming)
        if self._queue.ready:
            # Any number of keys may have become ready; a getter that finds none left goes on waiting.
            for _ in range(len(self._getters)):
                self._wake()

    def shut_down(self) -> None:
        """Hand out nothing more: queued keys are dropped, waiting getters end, adds are ignored. Idempotent."""
        self._closed = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
        if not self._queue.processing:
            self._drained.set()

    async def drain(self) -> None:
        """Shut down and wait until every key that was handed out is done."""
        self.shut_down()
        await self._drained.wait()

    def statistics(self) -> QueueStatistics:
        now = self._time()
        ages = [now - began for began in self._queue.processing.values()]
        return QueueStatistics(
            depth=self._queue.depth(),
            waiting=self._queue.waiting,
            processing=len(ages),
            adds=self._queue.adds,
            retries=self._retries,
            queue_duration=self._queue_duration,
            work_duration=self._work_duration,
            unfinished_seconds=sum(ages),
            longest_running_seconds=max(ages, default=0.0),
        )
