"""``status.conditions`` of built-in kinds: pure functions on lists of plain conditions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kaito.runtime import Manifest, format_time


def find(obj: Mapping[str, Any], kind: str) -> Manifest | None:
    """The condition of type ``kind`` in an object's status."""
    conditions: Iterable[Manifest] = (obj.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item.get("type") == kind), None)


def is_true(obj: Mapping[str, Any], kind: str) -> bool:
    found = find(obj, kind)
    return found is not None and found.get("status") == "True"


def put(
    conditions: Iterable[Manifest],
    kind: str,
    status: str,
    reason: str,
    message: str,
    now: datetime,
    *,
    stamp: str = "",
) -> list[Manifest]:
    """``conditions`` with one of type ``kind`` that says this.

    ``lastTransitionTime`` moves only when the status does. ``stamp`` names a further field that takes the time of any
    change, such as ``lastUpdateTime``. A condition that says the same already stays as it is.
    """
    moment = format_time(now)
    fresh: Manifest = {"type": kind, "status": status, "reason": reason, "message": message}
    result, placed = [], False
    for old in conditions:
        if old.get("type") != kind:
            result.append(old)
            continue
        placed = True
        if all(old.get(name, "") == value for name, value in fresh.items()):
            result.append(old)
            continue
        since = old.get("lastTransitionTime", moment) if old.get("status") == status else moment
        result.append(_complete(fresh, since, moment, stamp))
    if not placed:
        result.append(_complete(fresh, moment, moment, stamp))
    return result


def _complete(fresh: Manifest, since: str, moment: str, stamp: str) -> Manifest:
    condition = {name: value for name, value in fresh.items() if value}
    condition["lastTransitionTime"] = since
    if stamp:
        condition[stamp] = moment
    return condition


def without(conditions: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [item for item in conditions if item.get("type") != kind]
