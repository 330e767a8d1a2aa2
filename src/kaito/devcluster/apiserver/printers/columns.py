"""What a printer of one kind is made of, and the cells that many kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.devcluster.apiserver.printers.duration import since

Object = Mapping[str, Any]
Cells = Callable[[Object, datetime], list[Any]]
NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0
    """Above 0 for columns of ``-o wide`` alone."""

    def definition(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


NAME = Column("Name", format="name", description="Name of the object, unique within its namespace.")


@dataclass(frozen=True, slots=True)
class Printer:
    columns: tuple[Column, ...]
    cells: Cells
    """The row of one object, a cell for each column."""


def printer(header: str, cells: Cells) -> Printer:
    """A printer from its header: names between commas, ``+`` behind those of ``-o wide``, ``#`` behind integers."""

    def column(text: str) -> Column:
        name = text.strip()
        if name == NAME.name:
            return NAME
        bare = name.rstrip("+#")
        marks = name[len(bare) :]
        return Column(bare, "integer" if "#" in marks else "string", priority=int("+" in marks))

    return Printer(tuple(column(text) for text in header.split(",")), cells)


def name(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("name", ""))


def age(obj: Object, now: datetime) -> str:
    return since(obj.get("metadata", {}).get("creationTimestamp"), now)


def created_at(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("creationTimestamp") or "<unknown>")


def part(obj: Object, *path: str) -> Any:
    """The value at a path of keys; an empty mapping where a key is missing or null."""
    value: Any = obj
    for key in path:
        value = (value.get(key) if isinstance(value, Mapping) else None) or {}
    return value


def joined(values: Iterable[str], separator: str = ",") -> str:
    return separator.join(values) or NONE


def labels(selector: Mapping[str, str] | None) -> str:
    return joined(f"{key}={value}" for key, value in sorted((selector or {}).items()))


def label_selector(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector as ``-l`` takes it."""
    if selector is None:
        return NONE
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for requirement in selector.get("matchExpressions") or ():
        key, values = requirement.get("key", ""), ",".join(sorted(requirement.get("values") or ()))
        match requirement.get("operator"):
            case "In":
                terms.append(f"{key} in ({values})")
            case "NotIn":
                terms.append(f"{key} notin ({values})")
            case "Exists":
                terms.append(str(key))
            case "DoesNotExist":
                terms.append(f"!{key}")
    return joined(terms)


def containers(obj: Object, *template: str) -> list[str]:
    """The cells Containers and Images of a pod template."""
    found = part(obj, *template, "spec", "containers") or []
    return [joined(item.get("name", "") for item in found), joined(item.get("image", "") for item in found)]


def condition(obj: Object, kind: str) -> Mapping[str, Any]:
    """The status condition of a type, or an empty mapping."""
    conditions = part(obj, "status", "conditions") or []
    return next((item for item in conditions if item.get("type") == kind), {})
