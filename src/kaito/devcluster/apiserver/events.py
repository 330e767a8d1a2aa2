"""core/v1 and events.k8s.io/v1 Events are one storage, kept in the form of core/v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Between the stored version and a served one. Both functions take and give whole objects and share no state."""

    read: Callable[[Body], Body]
    write: Callable[[Body], Body]


_TO_CORE: Mapping[str, str] = {
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_FROM_CORE = {core: name for name, core in _TO_CORE.items()}


def _rename(names: Mapping[str, str]) -> Callable[[Body], Body]:
    def convert(body: Body) -> Body:
        return {names.get(name, name): value for name, value in body.items()}

    return convert


EVENTS_V1 = Conversion(read=_rename(_FROM_CORE), write=_rename(_TO_CORE))
