"""Electors against a lease that answers late, not at all or with a conflict: in virtual time, where a minute costs nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.runtime import (
    AlreadyExists,
    Conflict,
    ElectionConfig,
    FencedError,
    LeadershipLost,
    NotFound,
    OutcomeUnknown,
    Rest,
    RuntimeMetrics,
    ServiceUnavailable,
    SystemClock,
    TransportError,
)
from kaito.runtime.manager.elector import Elector
from kaito.runtime.tasks import cancel_and_wait
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.rest import Answer
from support.lease import LeaseServer, LoopClock
from support.waiting import eventually

Interfere = Callable[[str], Awaitable[None]]


class Line:
    """The connection of one elector to the server; ``interfere`` may delay or fail a request before it arrives."""

    def __init__(self, server: LeaseServer) -> None:
        self.server = server
        self.interfere: Interfere | None = None
        self.garbage = 0

    async def send(
        self, method: str, path: str, *, body: bytes | None = None, timeout: float = 60.0, pool: Pool = Pool.API
    ) -> Answer:
        assert pool is Pool.LEASE
        try:
            async with asyncio.timeout(timeout):
                if self.interfere is not None:
                    await self.interfere(method)
        except TimeoutError as error:
            raise OutcomeUnknown("no answer") from error
        if self.garbage:
            self.garbage -= 1
            return Answer(200, cast(Any, None), b"<html>\xff</html>")
        return Answer(200, cast(Any, None), self.server.handle(method, body))


def make(line: Line, identity: str = "me", *, clock: LoopClock | None = None, **durations: Any) -> Elector:
    config = ElectionConfig(namespace="n", name="lease", identity=identity, **durations)
    return Elector(config, cast(Rest, line), RuntimeMetrics(), clock=clock or LoopClock(), abort=lambda code: None)


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


@pytest.fixture
def line(server: LeaseServer) -> Line:
    return Line(server)


async def kept(elector: Elector, seconds: float) -> BaseException | None:
    """Keep the lease for a while; the error that ended it earlier."""
    task = asyncio.create_task(elector.keep())
    await asyncio.wait([task], timeout=seconds)
    if task.done():
        return task.exception()
    await cancel_and_wait(task)
    return None


def failing(error: Exception) -> Interfere:
    async def fail(method: str) -> None:
        raise error

    return fail


@pytest.mark.looptime
async def test_a_failing_server_is_asked_at_the_retry_period_and_not_more(server: LeaseServer, line: Line) -> None:
    """Pitfall 62."""
    attempts = 0

    async def refuse(method: str) -> None:
        nonlocal attempts
        attempts += 1
        raise ServiceUnavailable("down")

    line.interfere = refuse
    task = asyncio.create_task(make(line).acquire())
    await asyncio.sleep(60.0)
    await cancel_and_wait(task)
    assert 60 / 2.0 <= attempts <= 60 / (2.0 / 1.2) + 1


@pytest.mark.looptime
async def test_the_holders_own_duration_decides_when_its_lease_is_free(server: LeaseServer, line: Line) -> None:
    """Pitfall 63."""
    server.hold("other", 60)
    task = asyncio.create_task(make(line).acquire())
    await asyncio.sleep(59.0)
    assert server.holder == "other"
    await task
    assert server.holder == "me"
    assert 60.0 <= asyncio.get_running_loop().time() <= 60.0 + 2.0 * 1.2
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


@pytest.mark.looptime
async def test_every_change_of_the_record_starts_the_wait_anew(server: LeaseServer, line: Line) -> None:
    """Pitfall 68: also one whose times go backwards."""
    server.hold("other", 15, renewTime="2030-01-01T00:00:00.000000Z")
    task = asyncio.create_task(make(line).acquire())
    for year in (2029, 1999, 2028):
        await asyncio.sleep(14.0)
        assert server.holder == "other"
        server.hold("other", 15, renewTime=f"{year}-01-01T00:00:00.000000Z")
    await cancel_and_wait(task)


@pytest.mark.looptime
@pytest.mark.parametrize("metadata", [{}, {"labels": None, "annotations": None}, {"labels": {"team": "a"}}])
@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}, {"holderIdentity": "", "renewTime": "x"}])
async def test_a_lease_that_holds_little_is_taken_and_what_others_put_on_it_stays(
    server: LeaseServer, line: Line, metadata: dict[str, Any], spec: dict[str, Any] | None
) -> None:
    """Pitfall 67."""
    server.write({"metadata": {"name": "lease", "namespace": "n", "managedFields": [{}], **metadata}, "spec": spec})
    await make(line).acquire()
    assert server.holder == "me"
    assert server.lease is not None
    assert server.lease["metadata"] == {"name": "lease", "namespace": "n", "resourceVersion": "2", **metadata}


@pytest.mark.looptime
async def test_all_three_durations_count(server: LeaseServer, line: Line) -> None:
    """Pitfall 70: the retry period paces renewals, the renew deadline ends them, the lease duration is for the others."""
    elector = make(line, lease_duration=30.0, renew_deadline=7.0, retry_period=1.0)
    await elector.acquire()
    assert server.lease is not None
    assert server.lease["spec"]["leaseDurationSeconds"] == 30
    assert await kept(elector, 10.5) is None
    assert server.count("PUT") == 10
    assert server.count("GET") == 1, "a held lease is renewed without reading it first"
    line.interfere = failing(TransportError("unplugged"))
    began = asyncio.get_running_loop().time()
    error = await kept(elector, 60.0)
    assert isinstance(error, LeadershipLost)
    assert asyncio.get_running_loop().time() - began == pytest.approx(7.0, abs=0.01)
    assert not elector.leading
    await elector.release()


@pytest.mark.looptime
async def test_a_failed_renewal_forgets_nothing(server: LeaseServer, line: Line) -> None:
    """Pitfall 65: the next attempt is a write with the version that is known, not a read."""
    elector = make(line)
    await elector.acquire()
    failures = 2

    async def fail(method: str) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ServiceUnavailable("busy")

    line.interfere = fail
    before = server.count("GET")
    assert await kept(elector, 9.0) is None
    assert server.count("PUT") >= 2
    assert server.count("GET") == before


@pytest.mark.looptime
async def test_a_renewal_that_finds_its_version_outdated_reads_and_goes_on(server: LeaseServer, line: Line) -> None:
    elector = make(line)
    await elector.acquire()
    assert server.lease is not None
    server.write({**server.lease, "metadata": {**server.lease["metadata"], "labels": {"a": "b"}}})
    assert await kept(elector, 3.0) is None
    assert server.holder == "me"
    assert server.lease["metadata"]["labels"] == {"a": "b"}
    assert elector._slowpath.value == 1


@pytest.mark.looptime
async def test_a_deleted_lease_is_made_again_by_its_holder(server: LeaseServer, line: Line) -> None:
    elector = make(line)
    await elector.acquire()
    server.lease = None
    assert await kept(elector, 3.0) is None
    assert server.holder == "me"


@pytest.mark.looptime
async def test_an_answer_that_is_not_a_lease_is_a_failed_attempt(server: LeaseServer, line: Line) -> None:
    line.garbage = 3
    elector = make(line)
    await elector.acquire()
    line.garbage = 2
    assert await kept(elector, 9.0) is None


@pytest.mark.looptime
async def test_a_release_that_hangs_ends_with_the_renew_deadline(server: LeaseServer, line: Line) -> None:
    """Pitfall 64."""
    elector = make(line)
    await elector.acquire()

    async def hang(method: str) -> None:
        if method == "PUT":
            await asyncio.Event().wait()

    line.interfere = hang
    began = asyncio.get_running_loop().time()
    await elector.release()
    assert asyncio.get_running_loop().time() - began <= 10.0
    with pytest.raises(FencedError):
        elector.fence.check()


@pytest.mark.looptime
@pytest.mark.parametrize("thief", [False, True], ids=["still ours", "somebody else's"])
async def test_a_release_that_is_overtaken_looks_again(server: LeaseServer, line: Line, thief: bool) -> None:
    """Pitfall 66."""
    elector = make(line)
    await elector.acquire()
    overtaken = False

    async def overtake(method: str) -> None:
        nonlocal overtaken
        if method == "PUT" and not overtaken:
            overtaken = True
            server.hold("thief" if thief else "me")

    line.interfere = overtake
    await elector.release()
    assert overtaken
    assert server.holder == ("thief" if thief else "")
    assert server.count("PUT") == (1 if thief else 2)


@pytest.mark.looptime
async def test_a_released_lease_is_free_at_once_and_a_follower_releases_nothing(
    server: LeaseServer, line: Line
) -> None:
    first, second = make(line, "first"), make(Line(server), "second")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(1.0)
    await second.release()
    assert server.holder == "first"
    await first.release()
    await first.release()
    began = asyncio.get_running_loop().time()
    await waiting
    assert asyncio.get_running_loop().time() - began <= 2.0 * 1.2


@pytest.mark.looptime
async def test_wall_clocks_that_jump_disturb_nobody(server: LeaseServer, line: Line) -> None:
    """Pitfall 101: a century forth and back with every look at the clock."""
    century = 100 * 365 * 86400.0
    leader = make(line, "leader", clock=LoopClock(walls=(century, -century, 0.0)))
    follower = make(Line(server), "follower", clock=LoopClock(offset=5.0, walls=(-century, century)))
    await leader.acquire()
    waiting = asyncio.create_task(follower.acquire())
    assert await kept(leader, 120.0) is None
    leader.fence.check()
    assert server.holder == "leader"
    assert not waiting.done()
    await waiting
    assert server.holder == "follower"


@pytest.mark.looptime
async def test_the_fence_counts_from_before_the_request(line: Line) -> None:
    """The server may have stored the lease long before its answer came."""
    elector = make(line)

    async def slowly(method: str) -> None:
        await asyncio.sleep(4.0 if method == "POST" else 0.0)

    line.interfere = slowly
    await elector.acquire()
    await asyncio.sleep(13.9 - 4.0)
    elector.fence.check()
    await asyncio.sleep(0.2)
    with pytest.raises(FencedError):
        elector.fence.check()


@pytest.mark.looptime
async def test_a_process_that_should_have_ended_long_ago_is_unhealthy(line: Line) -> None:
    elector = make(line)
    elector.check_health()
    await elector.acquire()
    await asyncio.sleep(15.0 + 19.0)
    elector.check_health()
    await asyncio.sleep(2.0)
    with pytest.raises(FencedError, match="not been renewed"):
        elector.check_health()


async def test_a_process_whose_loop_is_stuck_is_ended_when_its_lease_runs_out(server: LeaseServer, line: Line) -> None:
    """Pitfall 95."""
    ended = threading.Event()
    codes: list[int] = []

    def abort(code: int) -> None:
        codes.append(code)
        ended.set()

    config = ElectionConfig("n", "lease", "me", lease_duration=1.0, renew_deadline=0.5, retry_period=0.1)
    elector = Elector(config, cast(Rest, line), RuntimeMetrics(), clock=SystemClock(), abort=abort)
    await elector.acquire()
    task = asyncio.create_task(elector.keep())
    await eventually(lambda: server.count("PUT") >= 1)
    assert not ended.is_set()
    assert ended.wait(20.0), "waits in the event loop's own thread, so the loop cannot renew"
    assert codes == [1]
    with pytest.raises(FencedError):
        elector.fence.check()
    task.cancel()
    await asyncio.wait([task])


# Any number of electors, networks and clocks


@dataclass(frozen=True)
class Fate:
    """What happens to one request."""

    there: float = 0.01
    """Seconds until it arrives, also where nobody waits for it any more."""
    back: float = 0.01
    lost: bool = False
    """It never arrives."""
    unanswered: bool = False


@dataclass(frozen=True)
class Life:
    """One elector's clock, network, and when its process is replaced: frozen where it stands, or stopped in order."""

    offset: float
    rate: float
    fates: tuple[Fate, ...]
    ends: tuple[tuple[float, bool], ...]


class FatefulLine(Line):
    """Carries out requests apart from the caller: one that was given up may still arrive."""

    def __init__(self, server: LeaseServer, fates: Sequence[Fate], check: Callable[[], None]) -> None:
        super().__init__(server)
        self._fates = iter(fates)
        self._check = check

    async def send(
        self, method: str, path: str, *, body: bytes | None = None, timeout: float = 60.0, pool: Pool = Pool.API
    ) -> Answer:
        loop = asyncio.get_running_loop()
        fate = next(self._fates, Fate())
        answer: asyncio.Future[bytes] = loop.create_future()

        def answered(content: bytes | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            elif content is not None:
                answer.set_result(content)

        def arrive() -> None:
            content, failure = None, None
            try:
                content = self.server.handle(method, body)
            except (NotFound, Conflict, AlreadyExists) as error:
                failure = error
            if not fate.unanswered:
                loop.call_later(fate.back, answered, content, failure)

        if not fate.lost:
            loop.call_later(fate.there, arrive)
        try:
            async with asyncio.timeout(timeout):
                content = await answer
        except TimeoutError as error:
            raise OutcomeUnknown("no answer") from error
        # A fence opens only in the step in which an answer is received.
        loop.call_soon(self._check)
        return Answer(200, cast(Any, None), content)


class Replicas:
    """Electors that run, freeze and are replaced under new names; at no moment may two of them write."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.server = LeaseServer()
        self.running: dict[str, Elector] = {}
        self.overlaps: list[list[str]] = []
        self.lives = lives

    def check(self) -> None:
        writers = []
        for identity, elector in self.running.items():
            with suppress(FencedError):
                elector.fence.check()
                writers.append(identity)
        if len(writers) > 1:
            self.overlaps.append(writers)

    async def live(self, number: int) -> None:
        life = self.lives[number]
        line = FatefulLine(self.server, life.fates, self.check)
        clock = LoopClock(offset=life.offset, rate=life.rate)
        metrics = RuntimeMetrics()
        for incarnation in range(1000):
            identity = f"{number}-{incarnation}"
            config = ElectionConfig(namespace="n", name="lease", identity=identity)
            elector = Elector(config, cast(Rest, line), metrics, clock=clock, abort=lambda code: None)
            self.running[identity] = elector
            task = asyncio.create_task(self.lead(elector))
            seconds, orderly = life.ends[incarnation] if incarnation < len(life.ends) else (None, False)
            try:
                await asyncio.wait([task], timeout=seconds)
            finally:
                with suppress(LeadershipLost):
                    await cancel_and_wait(task)
            # Without order it is frozen rather than gone: it renews nothing, and would write as soon as it went on. Either
            # way, what it has sent may still arrive.
            if orderly:
                await elector.release()
                del self.running[identity]
            else:
                elector.disarm()
            await asyncio.sleep(0.5)

    @staticmethod
    async def lead(elector: Elector) -> None:
        await elector.acquire()
        await elector.keep()

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(self.live(number)) for number in range(len(self.lives))]
        await asyncio.sleep(seconds)
        # All trouble is over by now: somebody must lead before a lease, a retry and a few round trips have passed.
        limit = loop.time() + 40.0
        while not any(elector.leading and elector.holder == self.server.holder for elector in self.running.values()):
            assert loop.time() < limit, "nobody leads"
            await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled(), task.exception()
        assert self.overlaps == []


_delays = st.one_of(st.just(0.01), st.floats(0.0, 3.0), st.floats(3.0, 40.0))
_fates = st.builds(
    Fate, _delays, _delays, lost=st.sampled_from([False] * 4 + [True]), unanswered=st.sampled_from([False] * 4 + [True])
)
_lives = st.builds(
    Life,
    offset=st.floats(-1e6, 1e6),
    rate=st.floats(0.97, 1.03),
    fates=st.lists(_fates, max_size=25).map(tuple),
    ends=st.lists(st.tuples(st.floats(0.5, 60.0), st.booleans()), max_size=3).map(tuple),
)


@settings(max_examples=30, deadline=None)
@given(lives=st.lists(_lives, min_size=2, max_size=3))
def test_whatever_the_network_and_the_clocks_do_two_never_write_at_once_and_in_the_end_one_leads(
    lives: list[Life],
) -> None:
    async def scenario() -> None:
        await Replicas(lives).run(200.0)

    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(noop_cycles=3)) as runner:
        runner.run(scenario())
