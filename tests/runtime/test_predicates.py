"""Filters on events: which pass, and that they remember nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kaito.runtime import (
    PODS,
    Event,
    EventType,
    LabelSelector,
    Predicate,
    Stored,
    all_of,
    annotations_changed,
    any_of,
    deletion_marked,
    generation_changed,
    labels_changed,
    matches_labels,
    negate,
    resource_version_changed,
)


def stored(**metadata: Any) -> Stored[Any]:
    metadata = {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 1, **metadata}
    return Stored(PODS, json.dumps({"kind": "Pod", "apiVersion": "v1", "metadata": metadata}).encode())


def update(**metadata: Any) -> Event[Any]:
    return Event(EventType.UPDATED, old=stored(), new=stored(**{"resourceVersion": "2", **metadata}))


CHANGES: dict[str, dict[str, Any]] = {
    "status": {},
    "spec": {"generation": 2},
    "labels": {"labels": {"a": "b"}},
    "annotations": {"annotations": {"a": "b"}},
    # The API server counts the mark as a new generation.
    "deletion": {"deletionTimestamp": "2026-01-01T00:00:00Z", "generation": 2},
}


@pytest.mark.parametrize(
    ("predicate", "passing"),
    [
        (resource_version_changed, {*CHANGES}),
        (generation_changed, {"spec", "deletion"}),
        (labels_changed, {"labels"}),
        (annotations_changed, {"annotations"}),
        (deletion_marked, {"deletion"}),
        (any_of(labels_changed, annotations_changed), {"labels", "annotations"}),
        (all_of(resource_version_changed, negate(labels_changed)), {*CHANGES} - {"labels"}),
        (matches_labels(LabelSelector.of({"a": "b"})), {"labels"}),
    ],
)
def test_what_passes_and_that_nothing_is_remembered(predicate: Predicate, passing: set[str]) -> None:
    """Pitfall 33: the same event is judged the same, however often and in whatever order."""
    for _ in range(2):
        assert {name for name, change in CHANGES.items() if predicate(update(**change))} == passing
    same = stored()
    assert not any_of(resource_version_changed, generation_changed, labels_changed, annotations_changed)(
        Event(EventType.UPDATED, old=same, new=same, resync=True)
    )


@pytest.mark.parametrize(
    "predicate",
    [resource_version_changed, generation_changed, labels_changed, annotations_changed, deletion_marked],
)
def test_additions_and_deletions_always_pass(predicate: Predicate) -> None:
    assert predicate(Event(EventType.ADDED, new=stored()))
    assert predicate(Event(EventType.DELETED, old=stored(), final_state_unknown=True))


def test_an_object_that_matched_before_passes() -> None:
    selector = matches_labels(LabelSelector.of({"a": "b"}))
    assert selector(Event(EventType.UPDATED, old=stored(labels={"a": "b"}), new=stored()))
    assert not selector(Event(EventType.ADDED, new=stored()))
