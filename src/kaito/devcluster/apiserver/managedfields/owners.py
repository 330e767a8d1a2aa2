"""The owners of an object's fields, and how ownership moves with each write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from kaito.devcluster.apiserver.managedfields import fields
from kaito.devcluster.apiserver.managedfields.fields import NOTHING, FieldSet, Path
from kaito.devcluster.apiserver.managedfields.merge import Difference

APPLY, UPDATE = "Apply", "Update"
MAX_UPDATERS: Final = 10
"""Owners by update beyond which the oldest are put together."""
ANCIENT: Final = "ancient-changes"


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """Who, by which way of writing. One that applies is the same in every version."""

    operation: str
    """``Apply`` or ``Update``."""
    name: str
    version: str = ""
    """API version of an update; ``""`` for Apply."""
    subresource: str = ""

    def __str__(self) -> str:
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.version}" if self.operation == UPDATE else text


@dataclass(frozen=True, slots=True)
class Owned:
    fields: FieldSet
    version: str
    """API version in which they were written."""
    time: str = ""


Owners = dict[Owner, Owned]


def decode(entries: Any) -> Owners:
    """``metadata.managedFields``. Raises ValueError."""
    owners: Owners = {}
    for entry in entries or ():
        if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
            raise ValueError("managedFields: the operation of each entry must be Apply or Update")
        operation, version = entry["operation"], entry.get("apiVersion", "")
        owner = Owner(
            operation,
            entry.get("manager", ""),
            version if operation == UPDATE else "",
            entry.get("subresource", ""),
        )
        owners[owner] = Owned(fields.from_fields_v1(entry.get("fieldsV1") or {}), version, entry.get("time") or "")
    return owners


def encode(owners: Owners) -> list[dict[str, Any]]:
    ordered = sorted(owners.items(), key=lambda item: (item[0].operation, item[1].time, item[0]))
    return [_entry(owner, owned) for owner, owned in ordered]


def _entry(owner: Owner, owned: Owned) -> dict[str, Any]:
    entry = {
        "manager": owner.name,
        "operation": owner.operation,
        "apiVersion": owned.version,
        "time": owned.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields.to_fields_v1(owned.fields),
        "subresource": owner.subresource,
    }
    return {name: value for name, value in entry.items() if value != ""}


def union(sets: Iterable[Owned]) -> FieldSet:
    return NOTHING.union(*(owned.fields for owned in sets))


def conflicts(owners: Owners, owner: Owner, difference: Difference) -> dict[Owner, FieldSet]:
    """What of the changed fields others own."""
    found = {other: owned.fields & difference.changed for other, owned in owners.items() if other != owner}
    return {other: shared for other, shared in found.items() if shared}


def moved(owners: Owners, owner: Owner, difference: Difference) -> Owners:
    """The owners after a change by ``owner``, whose own fields are left alone: others lose what has changed or gone."""
    lost = difference.changed | difference.removed
    result = {
        other: owned if other == owner else replace(owned, fields=owned.fields - lost)
        for other, owned in owners.items()
    }
    return {other: owned for other, owned in result.items() if owned.fields}


def updated(owners: Owners, owner: Owner, difference: Difference, now: str) -> Owners:
    """The owners after an update by ``owner``, who owns what it has changed."""
    result = moved(owners, owner, difference)
    held = owners.get(owner)
    before = held.fields if held is not None else NOTHING
    mine = (before - difference.removed) | difference.changed
    result.pop(owner, None)
    if held is not None and mine == before:
        result[owner] = held
    elif mine:
        result[owner] = Owned(mine, owner.version, now)
    return capped(result)


def capped(owners: Owners) -> Owners:
    """With the oldest updates put together where there are too many."""
    updaters = sorted((owned.time, owner) for owner, owned in owners.items() if owner.operation == UPDATE)
    if len(updaters) <= MAX_UPDATERS:
        return owners
    result = dict(owners)
    for time, owner in updaters[: len(updaters) - MAX_UPDATERS + 1]:
        ancient = Owner(UPDATE, ANCIENT, owner.version)
        gone = result.pop(owner)
        before = result.get(ancient)
        together = gone.fields | (before.fields if before is not None else NOTHING)
        result[ancient] = Owned(together, owner.version, time)
    return result


def conflict_message(found: Mapping[Owner, FieldSet]) -> str:
    pairs = conflict_list(found)
    if len(pairs) == 1:
        ((owner, path),) = pairs
        return f"Apply failed with 1 conflict: conflict with {owner}: {fields.shown(path)}"
    lines: list[str] = []
    for owner in sorted(found):
        lines.append(f"conflicts with {owner}:")
        lines += [f"- {fields.shown(path)}" for path in sorted(found[owner])]
    return f"Apply failed with {len(pairs)} conflicts: {chr(10).join(lines)}"


def conflict_list(found: Mapping[Owner, FieldSet]) -> list[tuple[Owner, Path]]:
    return [(owner, path) for owner in sorted(found) for path in sorted(found[owner])]
