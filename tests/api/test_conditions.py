from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kaito.api.conditions import MACHINE_CONDITIONS, find, is_true, set_condition
from kaito.api.machine import MachineCondition

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


def test_a_new_condition_carries_time_and_generation() -> None:
    (condition,) = set_condition(None, "ResourceReady", "False", "NotYet", "waiting", generation=3, now=NOON)
    assert condition.to_manifest() == {
        "type": "ResourceReady",
        "status": "False",
        "observedGeneration": 3,
        "lastTransitionTime": "2024-11-16T12:00:00Z",
        "reason": "NotYet",
        "message": "waiting",
    }


def test_time_moves_with_the_status_only() -> None:
    first = set_condition((), "Ready", "False", "A", "a", generation=1, now=NOON)
    same_status = set_condition(first, "Ready", "False", "B", "b", generation=2, now=LATER)
    assert same_status[0].last_transition_time == "2024-11-16T12:00:00Z"
    assert (same_status[0].reason, same_status[0].observed_generation) == ("B", 2)
    turned = set_condition(same_status, "Ready", "True", "C", "", generation=2, now=LATER)
    assert turned[0].last_transition_time == "2024-11-16T12:01:00Z"


def test_setting_the_same_again_changes_nothing() -> None:
    first = set_condition((), "Ready", "True", "A", "a", generation=1, now=NOON)
    assert set_condition(first, "Ready", "True", "A", "a", generation=1, now=LATER) == first


def test_conditions_keep_their_places() -> None:
    conditions = set_condition((), "A", "True", "r", "", generation=1, now=NOON)
    conditions = set_condition(conditions, "B", "True", "r", "", generation=1, now=NOON)
    conditions = set_condition(conditions, "A", "False", "r", "", generation=1, now=NOON)
    assert [condition.type for condition in conditions] == ["A", "B"]


def found(type_: str, status: str, reason: str | None = None, message: str | None = None) -> MachineCondition:
    values = {"type": type_, "status": status, "reason": reason, "message": message}
    return MachineCondition(**{name: value for name, value in values.items() if value is not None})


LAUNCHED = found("MachineLaunched", "True")
REGISTERED = found("MachineRegistered", "True")
INITIALIZED = found("MachineInitialized", "True")
NO_QUOTA = found("MachineLaunched", "False", "LaunchFailed", "no quota")


def test_a_machine_becomes_ready_when_all_three_hold() -> None:
    conditions = MACHINE_CONDITIONS.update(None, [LAUNCHED], now=NOON)
    assert find(conditions, "Ready").status == "Unknown"
    conditions = MACHINE_CONDITIONS.update(conditions, [REGISTERED, INITIALIZED], now=LATER)
    assert is_true(conditions, "Ready")
    assert [condition.type for condition in conditions] == sorted(condition.type for condition in conditions)


def test_the_first_that_does_not_hold_speaks_for_the_machine() -> None:
    waiting = found("MachineRegistered", "False", "MachineNotLaunched", "Machine is not launched")
    conditions = MACHINE_CONDITIONS.update(None, [NO_QUOTA, waiting], now=NOON)
    ready = find(conditions, "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "LaunchFailed", "no quota")
    conditions = MACHINE_CONDITIONS.update(conditions, [LAUNCHED], now=LATER)
    ready = find(conditions, "Ready")
    assert (ready.status, ready.reason, ready.message) == ("False", "MachineNotLaunched", "Machine is not launched")


def test_time_of_a_machine_condition_moves_with_every_change() -> None:
    conditions = MACHINE_CONDITIONS.update(
        None, [found("MachineLaunched", "Unknown", "Launching", "creating")], now=NOON
    )
    again = MACHINE_CONDITIONS.update(
        conditions, [found("MachineLaunched", "Unknown", "Launching", "creating")], now=LATER
    )
    assert again == conditions
    changed = MACHINE_CONDITIONS.update(
        conditions, [found("MachineLaunched", "Unknown", "Launching", "still creating")], now=LATER
    )
    assert find(changed, "MachineLaunched").last_transition_time == "2024-11-16T12:01:00Z"
    assert find(changed, "Ready").message == "still creating"
    assert find(changed, "Ready").last_transition_time == "2024-11-16T12:01:00Z"


def test_what_is_true_carries_no_reason() -> None:
    conditions = MACHINE_CONDITIONS.update(None, [NO_QUOTA], now=NOON)
    conditions = MACHINE_CONDITIONS.update(conditions, [LAUNCHED, REGISTERED, INITIALIZED], now=LATER)
    assert find(conditions, "Ready").to_manifest() == {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": "2024-11-16T12:01:00Z",
    }


def test_conditions_of_others_stay_and_do_not_bear_on_ready() -> None:
    drifted = found("MachineDrifted", "False", "NotDrifted").model_copy(update={"severity": "Info"})
    conditions = MACHINE_CONDITIONS.update([drifted], [LAUNCHED, REGISTERED, INITIALIZED], now=NOON)
    assert find(conditions, "MachineDrifted") == drifted
    assert is_true(conditions, "Ready")
