"""Printers of custom resources, from a version's ``additionalPrinterColumns``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.printers.columns import NAME, Column, Object, Printer, name
from kaito.devcluster.apiserver.printers.duration import human_duration
from kaito.devcluster.apiserver.schema.formats import parse_date_time
from kaito.devcluster.apiserver.schema.jsonpath import JsonPath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


def custom_printer(definitions: Sequence[Mapping[str, Any]]) -> Printer:
    """Name, and a column for each definition. Raises JsonPathError for a path that cannot be read."""
    columns = tuple(
        Column(
            str(item["name"]),
            str(item["type"]),
            str(item.get("format", "")),
            str(item.get("description", "")),
            int(item.get("priority", 0)),
        )
        for item in definitions
    )
    paths = [JsonPath(str(item["jsonPath"])) for item in definitions]

    def cells(obj: Object, now: datetime) -> list[Any]:
        selected = zip(columns, paths, strict=True)
        return [name(obj), *(_cell(column.type, path.find(obj), now) for column, path in selected)]

    return Printer((NAME, *columns), cells)


def _cell(kind: str, found: list[Any], now: datetime) -> Any:
    """The first value selected, if it is of the column's type: kubectl shows nothing for null."""
    if not found or found[0] is None:
        return None
    value = found[0]
    match kind:
        case "string":
            return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        case "date":
            moment = parse_date_time(value) if isinstance(value, str) else None
            return human_duration(now - moment) if moment is not None else "<invalid>"
        case "boolean":
            return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if kind == "integer" else float(value)
