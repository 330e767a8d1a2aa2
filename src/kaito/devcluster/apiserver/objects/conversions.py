"""Built-in resources that are served in two forms and stored in one, such as Events, which are stored as core/v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kaito.devcluster.apiserver.store import encode

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

_CPU: Final = "targetCPUUtilizationPercentage"
_KEPT: Final = {
    "metrics": "autoscaling.alpha.kubernetes.io/metrics",
    "behavior": "autoscaling.alpha.kubernetes.io/behavior",
}
"""Where version 1 keeps what it has no field for."""


def _autoscaler_v1(body: Body) -> Body:
    spec, metadata = dict(body["spec"]), body["metadata"]
    metrics = list(spec.pop("metrics", None) or ())
    cpu = next((metric for metric in metrics if _percentage(metric) is not None), None)
    if cpu is not None:
        metrics.remove(cpu)
        spec[_CPU] = _percentage(cpu)
    kept = {"metrics": metrics, "behavior": spec.pop("behavior", None)}
    notes = {_KEPT[name]: encode(value).decode() for name, value in kept.items() if value}
    if notes:
        metadata = {**metadata, "annotations": {**(metadata.get("annotations") or {}), **notes}}
    return {**body, "metadata": metadata, "spec": spec}


def _autoscaler_v2(body: Body) -> Body:
    spec, metadata = dict(body["spec"]), dict(body["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    kept = {name: annotations.pop(key, "") for name, key in _KEPT.items()}
    found = {name: msgspec.json.decode(text) for name, text in kept.items() if text}
    percentage = spec.pop(_CPU, None)
    metrics = found.pop("metrics", [])
    if percentage is not None:
        target = {"type": "Utilization", "averageUtilization": percentage}
        metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}, *metrics]
    if metrics:
        spec["metrics"] = metrics
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    return {**body, "metadata": metadata, "spec": spec | found}


def _percentage(metric: Body) -> int | None:
    resource = metric.get("resource") or {}
    target = resource.get("target") or {}
    percentage: int | None = target.get("averageUtilization") if resource.get("name") == "cpu" else None
    return percentage


AUTOSCALERS_V1 = Conversion(read=_autoscaler_v1, write=_autoscaler_v2)
