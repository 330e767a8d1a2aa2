"""The decisions of a reflector, without a network: which step follows what happened, from where, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.runtime import (
    ApiError,
    BadRequest,
    DecodeError,
    Expired,
    Forbidden,
    InternalError,
    Invalid,
    ServerTimeout,
    TooManyRequests,
    TransportError,
)
from kaito.runtime.cache.reflector import ReflectorMachine, StepKind, StreamedVersions, Timeout


def machine(*, streaming: bool = False) -> ReflectorMachine:
    return ReflectorMachine(streaming=streaming, rng=lambda: 0.0)


def fail(subject: ReflectorMachine, error: Exception, *, lasted: float = 5.0, now: float = 0.0) -> float:
    return subject.failed(subject.next(), error, lasted=lasted, now=now)


def watching(version: str = "10", *, streaming: bool = False) -> ReflectorMachine:
    subject = machine(streaming=streaming)
    subject.listed(version)
    return subject


def too_large() -> ServerTimeout:
    return ServerTimeout("Too large", details={"causes": [{"reason": "ResourceVersionTooLarge"}]})


def test_the_first_list_takes_any_version_in_pages_and_the_watch_starts_where_it_ends() -> None:
    subject = machine()
    step = subject.next()
    assert (step.kind, step.resource_version, step.limit) == (StepKind.LIST, "0", 500)
    subject.listed("42")
    step = subject.next()
    assert (step.kind, step.resource_version) == (StepKind.WATCH, "42")
    assert 300 <= step.timeout < 600


def test_a_list_after_the_first_never_goes_back_and_does_not_bypass_the_servers_cache() -> None:
    subject = watching("42")
    subject.seen("57")
    fail(subject, InternalError("boom"))
    step = subject.next()
    assert (step.kind, step.resource_version, step.limit) == (StepKind.LIST, "57", 0)


def test_a_server_that_pages_at_version_zero_is_paged_again() -> None:
    subject = machine()
    subject.next()
    subject.listed("42", paged=True)
    fail(subject, InternalError("boom"))
    assert subject.next().limit == 500


@pytest.mark.parametrize("error", [Expired("gone"), too_large()], ids=["expired", "too large"])
def test_an_unavailable_version_is_replaced_by_the_newest_once_and_at_once(error: ApiError) -> None:
    subject = watching("42")
    fail(subject, Expired("too old"))
    assert fail(subject, error) == 0.0
    step = subject.next()
    assert (step.kind, step.resource_version) == (StepKind.LIST, "")
    assert fail(subject, error) > 0.0, "the second failure backs off"
    subject.listed("90")
    fail(subject, InternalError("boom"))
    assert subject.next().resource_version == "90", "success goes back to the last version"


def test_an_expired_watch_lists_at_the_last_version_first() -> None:
    subject = watching("42")
    assert fail(subject, Expired("too old")) == 0.0
    step = subject.next()
    assert (step.kind, step.resource_version) == (StepKind.LIST, "42")


def test_a_watch_that_expires_at_once_does_not_spin() -> None:
    subject = watching("42")
    assert fail(subject, Expired("too old"), lasted=0.01) > 0.0


def test_a_watch_that_ends_goes_on_from_the_last_event_without_a_list() -> None:
    subject = watching("42")
    step = subject.next()
    subject.seen("43")
    assert subject.ended(step, events=1, lasted=300.0, now=0.0) == 0.0
    assert (subject.next().kind, subject.next().resource_version) == (StepKind.WATCH, "43")


def test_a_watch_that_ends_at_once_without_an_event_backs_off_and_lists() -> None:
    subject = watching("42")
    assert subject.ended(subject.next(), events=0, lasted=0.1, now=0.0) > 0.0
    assert subject.next().kind is StepKind.LIST


@pytest.mark.parametrize(
    ("error", "waits"),
    [(Timeout("silent"), False), (TransportError("reset"), True), (TooManyRequests("slow down"), True)],
    ids=["client timeout", "connection", "throttled"],
)
def test_what_only_the_connection_suffered_from_needs_no_list(error: Exception, waits: bool) -> None:
    subject = watching("42")
    assert (fail(subject, error) > 0.0) is waits
    assert subject.next().kind is StepKind.WATCH


@pytest.mark.parametrize(
    "error", [InternalError("boom"), Forbidden("no"), DecodeError("garbage")], ids=lambda e: type(e).__name__
)
def test_other_watch_errors_list_after_a_delay(error: Exception) -> None:
    subject = watching("42")
    assert fail(subject, error) > 0.0
    assert subject.next().kind is StepKind.LIST


def test_retry_after_is_honoured() -> None:
    subject = watching("42")
    assert fail(subject, TooManyRequests("slow down", retry_after=17.0)) == 17.0


def test_delays_double_to_thirty_seconds_and_start_over_after_two_quiet_minutes() -> None:
    subject = machine()
    delays = [fail(subject, InternalError("boom"), now=float(second)) for second in range(8)]
    assert delays == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert fail(subject, InternalError("boom"), now=200.0) == 0.8


def test_two_reflectors_do_not_wait_in_step() -> None:
    first = ReflectorMachine(streaming=False, rng=lambda: 0.1)
    second = ReflectorMachine(streaming=False, rng=lambda: 0.9)
    assert fail(first, InternalError("boom")) != fail(second, InternalError("boom"))


class TestStreaming:
    def test_the_state_is_streamed_once_and_then_watched(self) -> None:
        subject = machine(streaming=True)
        step = subject.next()
        assert (step.kind, step.resource_version) == (StepKind.STREAM, "")
        subject.listed("42")
        subject.ended(step, events=5, lasted=400.0, now=0.0)
        assert (subject.next().kind, subject.next().resource_version) == (StepKind.WATCH, "42")

    @pytest.mark.parametrize("error", [Invalid("no"), BadRequest("no")], ids=["invalid", "bad request"])
    def test_a_server_that_refuses_it_is_not_asked_again(self, error: ApiError) -> None:
        subject = machine(streaming=True)
        assert fail(subject, error) == 0.0
        assert subject.next().kind is StepKind.LIST
        subject.listed("42")
        fail(subject, InternalError("boom"))
        assert subject.next().kind is StepKind.LIST

    @pytest.mark.parametrize(
        "error", [TransportError("refused"), TooManyRequests("slow down")], ids=["connection", "throttled"]
    )
    def test_a_passing_failure_streams_again(self, error: Exception) -> None:
        subject = machine(streaming=True)
        assert fail(subject, error) > 0.0
        assert subject.next().kind is StepKind.STREAM

    @pytest.mark.parametrize("error", [InternalError("boom"), Timeout("silent")], ids=["error", "no bookmark"])
    def test_any_other_failure_lists_for_this_round(self, error: Exception) -> None:
        subject = machine(streaming=True)
        fail(subject, error)
        assert subject.next().kind is StepKind.LIST
        subject.listed("42")
        fail(subject, Forbidden("no"))
        assert subject.next().kind is StepKind.STREAM

    def test_expired_streams_the_newest(self) -> None:
        subject = watching("42", streaming=True)
        fail(subject, Expired("too old"))
        assert (subject.next().kind, subject.next().resource_version) == (StepKind.STREAM, "42")
        assert fail(subject, Expired("too old")) == 0.0
        assert (subject.next().kind, subject.next().resource_version) == (StepKind.STREAM, "")


class TestVersions:
    def test_events_of_what_existed_before_say_nothing(self) -> None:
        versions = StreamedVersions("0")
        assert versions.event("ADDED", "50") == ""
        assert versions.event("ADDED", "10") == ""
        assert versions.event("MODIFIED", "60") == "60"
        assert versions.event("ADDED", "61") == "61"

    def test_a_bookmark_settles_it(self) -> None:
        versions = StreamedVersions("")
        versions.event("ADDED", "50")
        assert versions.event("BOOKMARK", "55") == "55"

    @given(
        st.lists(
            st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.integers(1, 99)), max_size=20
        )
    )
    def test_it_never_goes_back(self, events: list[tuple[str, int]]) -> None:
        versions = StreamedVersions("5")
        reached = 5
        for kind, version in events:
            now = int(versions.event(kind, str(version)))
            assert now >= reached
            reached = now


@given(st.lists(st.sampled_from(["list", "expired", "forbidden", "reset", "end", "event", "timeout"]), max_size=30))
def test_whatever_happens_it_never_asks_for_a_version_before_the_last_one_seen(happenings: list[str]) -> None:
    subject = ReflectorMachine(rng=lambda: 0.5)
    version, now = 0, 0.0
    for happening in happenings:
        now += 1.0
        step = subject.next()
        assert step.resource_version in ("", "0") or int(step.resource_version) == version
        if step.kind is StepKind.WATCH:
            assert step.resource_version not in ("", "0")
        match happening:
            case "list" if step.kind is not StepKind.WATCH:
                version += 1
                subject.listed(str(version))
            case "event" if step.kind is StepKind.WATCH:
                version += 1
                subject.seen(str(version))
            case "end" if step.kind is StepKind.WATCH:
                subject.ended(step, events=1, lasted=9.0, now=now)
            case "expired":
                subject.failed(step, Expired("old"), lasted=2.0, now=now)
            case "forbidden":
                subject.failed(step, Forbidden("no"), lasted=2.0, now=now)
            case "reset":
                subject.failed(step, TransportError("reset"), lasted=2.0, now=now)
            case "timeout":
                subject.failed(step, Timeout("silent"), lasted=2.0, now=now)
