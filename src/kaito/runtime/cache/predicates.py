"""Filters on events. Each is a pure function of one event; none keeps state about objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaito.runtime.objects.events import Event, EventType, Predicate
from kaito.runtime.objects.selectors import LabelSelector
from kaito.runtime.objects.stored import ObjectMeta, Stored


def resource_version_changed(event: Event[Any]) -> bool:
    """Leaves out updates that changed nothing: resyncs and repeats."""
    return _changed(event, lambda stored: stored.resource_version)


def generation_changed(event: Event[Any]) -> bool:
    """Leaves out updates of status and metadata. A deletion mark passes: the server counts it as a new generation."""
    return _changed(event, lambda stored: stored.generation)


def labels_changed(event: Event[Any]) -> bool:
    return _changed(event, lambda stored: stored.labels)


def annotations_changed(event: Event[Any]) -> bool:
    return _changed(event, lambda stored: stored.meta.annotations)


def deletion_marked(event: Event[Any]) -> bool:
    """Passes an update in which the object began to be deleted."""

    def marked(meta: ObjectMeta) -> bool:
        return meta.deletion_timestamp is not None

    return event.type is not EventType.UPDATED or _changed(event, lambda stored: marked(stored.meta))


def matches_labels(selector: LabelSelector) -> Predicate:
    """Passes events of objects that match, or did."""

    def predicate(event: Event[Any]) -> bool:
        return any(stored is not None and selector.matches(stored.labels) for stored in (event.old, event.new))

    return predicate


def all_of(*predicates: Predicate) -> Predicate:
    return lambda event: all(predicate(event) for predicate in predicates)


def any_of(*predicates: Predicate) -> Predicate:
    return lambda event: any(predicate(event) for predicate in predicates)


def negate(predicate: Predicate) -> Predicate:
    return lambda event: not predicate(event)


def _changed(event: Event[Any], value: Callable[[Stored[Any]], object]) -> bool:
    if event.old is None or event.new is None:
        return True
    return value(event.old) != value(event.new)
