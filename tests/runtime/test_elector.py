"""Leader election: who may take a lease, when a leader must stop, and that it does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kaito.runtime import ConfigError, ElectionConfig, FencedError
from kaito.runtime.manager.elector import FENCE_MARGIN, Fence, LeaseObservation, LeaseSpec


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def config(**changes: float) -> ElectionConfig:
    return ElectionConfig(namespace="n", name="lease", identity="me", **changes)


def other(**changes: object) -> LeaseSpec:
    values = {"holder_identity": "other", "lease_duration_seconds": 15, "renew_time": "t0", "lease_transitions": 3}
    return LeaseSpec(**(values | changes))


@pytest.mark.parametrize(
    "durations",
    [
        {"lease_duration": 10.0, "renew_deadline": 10.0},
        {"renew_deadline": 2.0, "retry_period": 2.0},
        {"retry_period": 0.0},
        {"lease_duration": -1.0},
    ],
)
def test_durations_that_cannot_work_are_refused(durations: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="lease duration > renew deadline"):
        config(**durations)


def test_an_identity_is_needed() -> None:
    with pytest.raises(ConfigError, match="identity"):
        ElectionConfig(namespace="n", name="lease", identity="")


@pytest.mark.parametrize(
    ("record", "held"),
    [
        (None, False),
        (LeaseSpec(), False),
        (other(holder_identity=""), False),
        (other(holder_identity="me"), False),
        (other(), True),
    ],
    ids=["no lease", "empty", "released", "ours", "held"],
)
def test_a_lease_is_free_unless_somebody_else_holds_it(record: LeaseSpec | None, held: bool) -> None:
    observation = LeaseObservation("me")
    if record is not None:
        observation.observe(record, 100.0)
    assert observation.held_by_other(100.0) is held


def test_a_lease_runs_out_by_its_own_duration_counted_from_when_it_was_seen_to_change() -> None:
    observation = LeaseObservation("me")
    observation.observe(other(lease_duration_seconds=60), 100.0)
    observation.observe(other(lease_duration_seconds=60), 130.0)
    assert observation.held_by_other(159.0)
    assert not observation.held_by_other(160.0)
    assert observation.free_in(159.0) == 1.0


def test_any_change_starts_the_time_anew_even_with_clocks_that_disagree() -> None:
    observation = LeaseObservation("me")
    observation.observe(other(renew_time="2026-01-01T10:00:00Z"), 100.0)
    observation.observe(other(renew_time="1999-01-01T10:00:00Z"), 114.0)
    assert observation.held_by_other(120.0)


def test_transitions_count_changes_of_holder_and_renewing_keeps_the_acquire_time() -> None:
    observation = LeaseObservation("me")
    first = observation.desired(config(), "t1")
    assert (first.lease_transitions, first.acquire_time) == (0, "t1")
    observation.observe(other(), 100.0)
    taken = observation.desired(config(), "t2")
    assert (taken.lease_transitions, taken.acquire_time, taken.holder_identity) == (4, "t2", "me")
    observation.observe(taken, 101.0)
    renewed = observation.desired(config(), "t3")
    assert (renewed.lease_transitions, renewed.acquire_time, renewed.renew_time) == (4, "t2", "t3")


def test_the_fence_closes_before_the_lease_runs_out_for_others() -> None:
    clock = ManualClock()
    refusals: list[int] = []
    fence = Fence(clock, lambda: refusals.append(1))
    with pytest.raises(FencedError):
        fence.check()
    fence.extend(clock.seconds + 15.0)
    clock.seconds += 15.0 - FENCE_MARGIN - 0.01
    fence.check()
    clock.seconds += 0.02
    with pytest.raises(FencedError, match="was not sent"):
        fence.check()
    assert len(refusals) == 2
