"""The work queue: what a controller may rely on, and that it holds for any sequence of operations."""

from __future__ import annotations

import asyncio
import gc
import pickle
import random
import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kaito.runtime import LOW_PRIORITY
from kaito.runtime.control.workqueue import PriorityQueue, QueueShutDown, WorkQueue
from support.waiting import eventually


async def take(queue: WorkQueue[Any]) -> Any:
    key, _ = await queue.get()
    return key


async def test_keys_come_out_in_order_and_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


async def test_higher_priority_first_and_a_raised_key_goes_to_the_end_of_its_new_level() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("low", priority=LOW_PRIORITY)
    queue.add("raised", priority=LOW_PRIORITY)
    queue.add("first")
    queue.add("raised")
    queue.add("raised", priority=LOW_PRIORITY)  # never lowered
    assert [await queue.get() for _ in range(3)] == [("first", 0), ("raised", 0), ("low", LOW_PRIORITY)]


async def test_a_key_added_while_it_is_worked_on_runs_once_more_and_not_before() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert await take(queue) == "b"
    waiting = asyncio.ensure_future(take(queue))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done("a")
    assert await waiting == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_the_earlier_of_two_delays_wins() -> None:
    queue: WorkQueue[str] = WorkQueue()
    loop = asyncio.get_running_loop()
    started = loop.time()
    queue.add("a", after=60.0)
    queue.add("a", after=0.02)
    queue.add("a", after=30.0)
    assert await take(queue) == "a"
    assert 0.02 <= loop.time() - started < 10.0
    assert queue.statistics().waiting == 0


async def test_delays_share_one_timer_and_leave_none_behind() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[int] = WorkQueue()
    before = len(loop._scheduled)
    for number in range(10_000):
        queue.add(number, after=1000.0 + number)
    assert len(loop._scheduled) - before <= 1
    queue.shut_down()
    assert queue.statistics().waiting == 0


@pytest.mark.parametrize("delay", [1e12, float("inf"), -5.0])
async def test_absurd_delays_do_not_break_the_queue(delay: float) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", after=delay)
    assert queue.statistics().waiting == (1 if delay > 0 else 0)
    queue.shut_down()


async def test_a_delay_that_is_not_a_number_is_refused() -> None:
    queue: WorkQueue[str] = WorkQueue()
    with pytest.raises(ValueError, match="NaN"):
        queue.add("a", after=float("nan"))


async def test_failures_back_off_and_success_starts_over() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for expected in (1, 2, 3):
        queue.add_rate_limited("a")
        assert queue.failures("a") == expected
        assert await take(queue) == "a"
        queue.done("a")
    queue.forget("a")
    assert queue.failures("a") == 0


async def test_shut_down_wakes_getters_drops_keys_and_ignores_adds() -> None:
    queue: WorkQueue[str] = WorkQueue()
    getters = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.shut_down()
    for getter in getters:
        with pytest.raises(QueueShutDown):
            await getter
    queue.add("late")
    with pytest.raises(QueueShutDown):
        await queue.get()


async def test_drain_waits_for_the_work_in_hand() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("b")
    await take(queue)
    draining = asyncio.ensure_future(queue.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    queue.done("a")
    await draining


async def test_cancelled_getters_lose_nothing() -> None:
    rng = random.Random(7)
    queue: WorkQueue[int] = WorkQueue()
    taken: list[int] = []

    async def worker() -> None:
        while True:
            key, _ = await queue.get()
            taken.append(key)
            queue.done(key)

    workers = [asyncio.ensure_future(worker()) for _ in range(8)]
    for number in range(2_000):
        queue.add(number)
        if rng.random() < 0.5:
            index = rng.randrange(len(workers))
            workers[index].cancel()
            workers[index] = asyncio.ensure_future(worker())
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await eventually(lambda: not len(queue))
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(taken) == list(range(2_000))


async def test_the_queue_holds_no_reference_to_what_was_taken() -> None:
    class Key:
        pass

    queue: WorkQueue[Any] = WorkQueue()
    key = Key()
    gone = weakref.ref(key)
    queue.add(key)
    queue.done(await take(queue))
    queue.forget(key)
    del key
    gc.collect()
    assert gone() is None


def test_low_priority_keys_age_until_they_are_served() -> None:
    queue: PriorityQueue[str] = PriorityQueue(ageing=100.0)
    queue.add("old", 0.0, priority=LOW_PRIORITY)
    served_at = None
    for second in range(200):
        queue.add(f"urgent {second}", float(second))
        taken = queue.pop(second + 0.5)
        assert taken is not None
        queue.done(taken[0])
        if taken[0] == "old":
            served_at = second
            break
    assert served_at is not None
    assert 95 <= served_at <= 105


class QueueModel(RuleBasedStateMachine):
    """Any sequence of operations against a model that is too simple to be wrong."""

    keys = st.integers(0, 6)

    def __init__(self) -> None:
        super().__init__()
        self.queue: PriorityQueue[int] = PriorityQueue(ageing=float("inf"))
        self.now = 0.0
        self.order = 0
        self.ready: dict[int, tuple[int, int]] = {}
        self.waiting: dict[int, tuple[float, int, int]] = {}
        self.processing: set[int] = set()

    def tick(self) -> int:
        self.order += 1
        return self.order

    @rule(key=keys, priority=st.sampled_from([-100, 0, 0, 5]))
    def add(self, key: int, priority: int) -> None:
        self.queue.add(key, self.now, priority=priority)
        if key in self.waiting:
            self.ready[key] = (max(priority, self.waiting.pop(key)[1]), self.tick())
        elif key not in self.ready or priority > self.ready[key][0]:
            self.ready[key] = (priority, self.tick())

    @rule(key=keys, priority=st.sampled_from([-100, 0]), after=st.floats(0.1, 5.0))
    def add_later(self, key: int, priority: int, after: float) -> None:
        self.queue.add(key, self.now, priority=priority, after=after)
        due = self.now + after
        if key in self.ready:
            if priority > self.ready[key][0]:
                self.ready[key] = (priority, self.tick())
        elif key in self.waiting:
            old_due, old_priority, order = self.waiting[key]
            if due < old_due:
                old_due, order = due, self.tick()
            self.waiting[key] = (old_due, max(priority, old_priority), order)
        else:
            self.waiting[key] = (due, priority, self.tick())

    @rule(seconds=st.floats(0.0, 3.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        upcoming = self.queue.promote(self.now)
        due = sorted((when, order, key) for key, (when, _, order) in self.waiting.items() if when <= self.now)
        for _, _, key in due:
            _, priority, _ = self.waiting.pop(key)
            self.ready[key] = (priority, self.tick())
        assert upcoming == min((when for when, _, _ in self.waiting.values()), default=None)

    @rule()
    def pop(self) -> None:
        taken = self.queue.pop(self.now)
        free = {key: rank for key, rank in self.ready.items() if key not in self.processing}
        if not free:
            assert taken is None
            return
        assert taken is not None
        top = max(priority for priority, _ in free.values())
        assert taken[1] == top
        key = taken[0]
        assert key in free
        assert free[key][0] == top
        # A key that was parked becomes ready when its run is done, so order is compared among keys that never were.
        del self.ready[key]
        self.processing.add(key)

    @precondition(lambda self: self.processing)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.processing)))
        assert self.queue.done(key) is not None
        self.processing.discard(key)

    @invariant()
    def same_size(self) -> None:
        assert len(self.queue) == len(self.ready) == sum(self.queue.depth().values())
        assert self.queue.waiting == len(self.waiting)
        assert set(self.queue.processing) == self.processing


QueueModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueModel = QueueModel.TestCase


async def test_keys_that_fall_due_together_are_worked_on_together() -> None:
    """Pitfall 45: no worker sleeps while there is work, also where another key was added at that very moment."""
    queue: WorkQueue[str] = WorkQueue()
    getters = [asyncio.ensure_future(queue.get()) for _ in range(4)]
    await asyncio.sleep(0)
    for key in ("b", "c", "d"):
        queue.add(key, after=0.001)
    loop = asyncio.get_running_loop()
    due = loop.time() + 0.001
    while loop.time() < due:
        pass  # the timer is due before the event loop gets to look at it
    loop.call_soon(queue.add, "a")
    async with asyncio.timeout(5):
        taken = await asyncio.gather(*getters)
    assert sorted(key for key, _ in taken) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("seed", range(20))
async def test_shutting_down_and_draining_at_any_moment_ends_everything(seed: int) -> None:
    """Pitfalls 41 and 42."""
    rng = random.Random(seed)
    queue: WorkQueue[int] = WorkQueue()
    active: set[int] = set()

    async def pause() -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    async def work() -> None:
        while True:
            try:
                key, _ = await queue.get()
            except QueueShutDown:
                return
            assert key not in active
            active.add(key)
            await pause()
            active.discard(key)
            queue.done(key)

    async def feed() -> None:
        for number in range(40):
            queue.add(number % 7, after=rng.choice([0.0, 0.0001, 60.0]))
            await pause()

    async def end(how: str) -> None:
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        if how == "drain":
            await queue.drain()
            assert not active
        else:
            queue.shut_down()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
        group.create_task(feed())
        for how in ("drain", "shut down", "drain"):
            group.create_task(end(how))
    assert queue.statistics().processing == 0
    assert len(queue) == 0


@pytest.mark.looptime
async def test_delays_double_from_five_milliseconds_and_a_success_starts_them_over() -> None:
    """Pitfalls 49 and 60."""
    queue: WorkQueue[str] = WorkQueue()
    loop = asyncio.get_running_loop()
    waits = []
    for outcome in ("error", "error", "error", "success", "error"):
        if outcome == "success":
            queue.forget("a")
            continue
        began = loop.time()
        queue.add_rate_limited("a")
        queue.done(await take(queue))
        waits.append(loop.time() - began)
    assert waits == pytest.approx([0.005, 0.01, 0.02, 0.005])
    for _ in range(100):
        queue.add_rate_limited("b")
        queue.add("b")
        queue.done(await take(queue))
    began = loop.time()
    queue.add_rate_limited("b")
    await take(queue)
    assert loop.time() - began == pytest.approx(1000.0), "the longest delay, without an overflow"


async def test_the_queue_counts_what_it_does() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key)
    queue.add("later", after=60.0)
    queue.add("raised", priority=LOW_PRIORITY)
    queue.add("raised")
    statistics = queue.statistics()
    assert (statistics.adds, statistics.waiting, statistics.depth) == (3, 1, {0: 3})
    queue.add_rate_limited("c")
    await take(queue)
    statistics = queue.statistics()
    assert (statistics.retries, statistics.processing) == (1, 1)
    assert statistics.unfinished_seconds >= statistics.longest_running_seconds >= 0
    assert sum(statistics.queue_duration.counts) == 1
    queue.done("a")
    assert sum(queue.statistics().work_duration.counts) == 1
    queue.shut_down()


def test_a_queue_holds_no_more_than_its_keys_however_often_they_are_raised_added_or_taken() -> None:
    queue: PriorityQueue[str] = PriorityQueue()
    queue.add("top", 0.0, priority=1 << 30)
    queue.add("late", 0.0, after=1e6)
    for number in range(20_000):
        queue.add("raised", 0.0, priority=number)
        queue.add("late", 0.0, after=1e6 - number)
    assert len(pickle.dumps(queue._levels)) + len(pickle.dumps(queue._waiting)) < 50_000
    order = [taken[0] for taken in iter(lambda: queue.pop(0.0), None)]
    assert order == ["top", "raised"]
    assert queue.promote(2e6) is None
    assert queue.pop(2e6) is not None


def test_what_was_added_while_it_was_worked_on_can_be_taken_back() -> None:
    queue: PriorityQueue[str] = PriorityQueue()
    queue.add("a", 0.0)
    assert queue.pop(0.0) is not None
    queue.add("a", 1.0)
    queue.retract("a")
    queue.add("a", 1.0, after=5.0)
    queue.done("a")
    assert queue.pop(2.0) is None
    assert queue.promote(7.0) is None
    assert queue.pop(7.0) is not None
    queue.retract("a")


def test_any_negative_priority_counts_as_none_within_minutes() -> None:
    for priority in (-1, -100, -(10**9)):
        queue: PriorityQueue[str] = PriorityQueue()
        queue.add("old", 0.0, priority=priority)
        queue.add("urgent", 1.0)
        assert queue.pop(1.0) == ("urgent", 0, 0.0)
        queue.add("later", 181.0)
        taken = queue.pop(181.0)
        assert taken is not None
        assert taken[0] == "old", priority
