"""``meta.k8s.io`` Tables: what ``kubectl get`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from kaito.devcluster.apiserver.printers.cluster import CLUSTER
from kaito.devcluster.apiserver.printers.columns import Printer, age, name, printer
from kaito.devcluster.apiserver.printers.custom import custom_printer
from kaito.devcluster.apiserver.printers.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kaito.devcluster.apiserver.objects.builtins import ResourceInfo

__all__ = ["IncludeObject", "table"]

Object = dict[str, Any]
IncludeObject = Literal["Metadata", "Object", "None"]

_PRINTERS: Final = {**WORKLOADS, **CLUSTER}
_NAME_AND_AGE: Final = printer("Name,Age", lambda obj, now: [name(obj), age(obj, now)])
_COMPLETED: Final = {
    "Succeeded": "The pod has completed successfully.",
    "Failed": "The pod failed.",
}


def table(
    info: ResourceInfo,
    objects: Sequence[Object],
    *,
    columns: Sequence[Mapping[str, Any]] | None,
    now: datetime,
    include_object: IncludeObject,
    api_version: str = "meta.k8s.io/v1",
    with_columns: bool = True,
) -> Object:
    """A Table of ``objects``; its list metadata is left to the caller.

    ``columns`` are the ``additionalPrinterColumns`` of a custom resource's version, None for a built-in kind or a
    CRD without any. ``now`` is aware. ``with_columns`` is False for all but the first Table of a watch.
    """
    shown = _printer(info, columns)
    return {
        "kind": "Table",
        "apiVersion": api_version,
        "metadata": {},
        "columnDefinitions": [column.definition() for column in shown.columns] if with_columns else None,
        "rows": [_row(info, obj, shown, now, include_object, api_version) for obj in objects],
    }


def _printer(info: ResourceInfo, columns: Sequence[Mapping[str, Any]] | None) -> Printer:
    if columns:
        return custom_printer(columns)
    return _PRINTERS.get((info.group, info.kind), _NAME_AND_AGE) if info.definition else _NAME_AND_AGE


def _row(
    info: ResourceInfo, obj: Object, shown: Printer, now: datetime, include_object: IncludeObject, api_version: str
) -> Object:
    row: Object = {"cells": shown.cells(obj, now)}
    phase = (obj.get("status") or {}).get("phase") if (info.group, info.kind) == ("", "Pod") else None
    if phase in _COMPLETED:
        row["conditions"] = [{"type": "Completed", "status": "True", "reason": phase, "message": _COMPLETED[phase]}]
    match include_object:
        case "Object":
            row["object"] = obj
        case "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": api_version,
                "metadata": obj.get("metadata", {}),
            }
    return row
