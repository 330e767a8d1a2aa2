"""When two objects ask for the same although their JSON differs, and the merge patch where they do not.

The rules are those by which the API server itself would store the same: absent, ``null`` and an empty list are one, as are
absent and empty for the well-known maps. Quantities are numbers where Kubernetes' own kinds have them, and nowhere else: in a
custom resource ``limits: {version: "1.10"}`` may be anything. ``{}`` elsewhere means something, as ``emptyDir: {}`` does, and
a label ``"1"`` is not a label ``"1000m"``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_MAPS = frozenset({"annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "stringData"})
"""Fields that hold a map of plain text in every API."""

_SYNTAX = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,2}))?\Z", re.ASCII)
_BINARY = {unit: Fraction(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {
    unit: Fraction(10) ** power
    for unit, power in {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}.items()
}

_Shape = Mapping[str, Any]
"""Where the quantities are: field names to the shapes of their values, ``*`` for the names of a map and for items of a list."""

_NONE: _Shape = {}
_QUANTITY: _Shape = {"": None}
_AMOUNTS: _Shape = {"*": _QUANTITY}
_RESOURCES: _Shape = {"limits": _AMOUNTS, "requests": _AMOUNTS}
_CLAIM: _Shape = {
    "spec": {"resources": _RESOURCES},
    "status": {"capacity": _AMOUNTS, "allocatedResources": _AMOUNTS},
}
_FIELD_REF: _Shape = {"resourceFieldRef": {"divisor": _QUANTITY}}
_CONTAINERS: _Shape = {"*": {"resources": _RESOURCES, "env": {"*": {"valueFrom": _FIELD_REF}}}}
_DOWNWARD: _Shape = {"items": {"*": _FIELD_REF}}
_VOLUME: _Shape = {
    "emptyDir": {"sizeLimit": _QUANTITY},
    "downwardAPI": _DOWNWARD,
    "projected": {"sources": {"*": {"downwardAPI": _DOWNWARD}}},
    "ephemeral": {"volumeClaimTemplate": _CLAIM},
}
_POD: _Shape = {
    "spec": {
        "containers": _CONTAINERS,
        "initContainers": _CONTAINERS,
        "ephemeralContainers": _CONTAINERS,
        "overhead": _AMOUNTS,
        "resources": _RESOURCES,
        "volumes": {"*": _VOLUME},
    }
}
_TEMPLATE: _Shape = {"spec": {"template": _POD}}
_METRIC_VALUE: _Shape = {"averageValue": _QUANTITY, "value": _QUANTITY}
_METRIC: _Shape = {
    source: {"target": _METRIC_VALUE, "current": _METRIC_VALUE}
    for source in ("resource", "containerResource", "pods", "object", "external")
}
_NODE_AMOUNTS: _Shape = {"capacity": _AMOUNTS, "allocatable": _AMOUNTS}
_LIMIT: _Shape = dict.fromkeys(("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"), _AMOUNTS)

_KINDS: Mapping[str, _Shape] = {
    "Pod": _POD,
    "PodTemplate": {"template": _POD},
    "ReplicationController": _TEMPLATE,
    "Node": {"status": _NODE_AMOUNTS},
    "PersistentVolume": {"spec": {"capacity": _AMOUNTS}},
    "PersistentVolumeClaim": _CLAIM,
    "ResourceQuota": {"spec": {"hard": _AMOUNTS}, "status": {"hard": _AMOUNTS, "used": _AMOUNTS}},
    "LimitRange": {"spec": {"limits": {"*": _LIMIT}}},
    "Deployment.apps": _TEMPLATE,
    "ReplicaSet.apps": _TEMPLATE,
    "DaemonSet.apps": _TEMPLATE,
    "StatefulSet.apps": {"spec": {"template": _POD, "volumeClaimTemplates": {"*": _CLAIM}}},
    "Job.batch": _TEMPLATE,
    "CronJob.batch": {"spec": {"jobTemplate": _TEMPLATE}},
    "HorizontalPodAutoscaler.autoscaling": {
        "spec": {"metrics": {"*": _METRIC}},
        "status": {"currentMetrics": {"*": _METRIC}},
    },
    "RuntimeClass.node.k8s.io": {"overhead": {"podFixed": _AMOUNTS}},
    "CSIStorageCapacity.storage.k8s.io": {"capacity": _QUANTITY, "maximumVolumeSize": _QUANTITY},
}
"""Shapes by kind and group."""


def equal(one: Mapping[str, Any], other: Mapping[str, Any], *, group: str = "", kind: str = "") -> bool:
    """Whether two objects of ``kind`` mean the same to the API server."""
    shape = _shape(group, kind)
    return bool(_normal(one, "", shape) == _normal(other, "", shape))


def merge_patch(
    before: Mapping[str, Any], after: Mapping[str, Any], *, group: str = "", kind: str = ""
) -> dict[str, Any]:
    """RFC 7386: what brings ``before`` to ``after``, empty where they mean the same. Lists are replaced as a whole."""
    return _merge(before, after, "", _shape(group, kind))


def _shape(group: str, kind: str) -> _Shape:
    return _KINDS.get(f"{kind}.{group}" if group else kind, _NONE)


def _inner(shape: _Shape, name: str) -> _Shape:
    found: _Shape = shape.get(name) or shape.get("*") or _NONE
    return found


def _merge(before: Mapping[str, Any], after: Mapping[str, Any], field: str, shape: _Shape) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if _normal({name: old}, field, shape) == _normal({name: new}, field, shape):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            patch[name] = _merge(old, new, "" if field in _MAPS else name, _inner(shape, name))
        else:
            patch[name] = new
    return patch


class _Absent:
    """What a field that might as well not be there is worth."""


_ABSENT = _Absent()


def _normal(value: Any, field: str, shape: _Shape) -> Any:
    if isinstance(value, Mapping):
        # The names in a map of text are anybody's: they are not fields.
        inner = {
            name: _normal(item, "" if field in _MAPS else name, _inner(shape, name)) for name, item in value.items()
        }
        present = {name: item for name, item in inner.items() if item is not _ABSENT}
        return present if present or (field not in _MAPS and shape is not _AMOUNTS) else _ABSENT
    if isinstance(value, list | tuple):
        item_shape = _inner(shape, "*")
        return [_normal(item, "", item_shape) for item in value] if value else _ABSENT
    if value is None:
        return _ABSENT
    if shape is _QUANTITY:
        return _number(value)
    # To Python, True is 1.
    return (bool, value) if isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """The amount that a quantity stands for; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return (bool, value)
    found = _SYNTAX.match(str(value))
    if found is None:
        return value
    digits, binary, decimal, exponent = found.groups()
    amount = Fraction(digits.rstrip("."))
    if binary:
        return amount * _BINARY[binary]
    if decimal:
        return amount * _DECIMAL[decimal]
    return amount * Fraction(10) ** int(exponent) if exponent else amount
