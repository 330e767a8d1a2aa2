"""Fields that a built-in object must have.

OpenAPI calls a field required when its Go struct always writes it, which is more than what the real server insists on:
a number or a boolean has a zero value, a missing struct is an empty one, and status is never checked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema.cause import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.devcluster.apiserver.schema.node import Json, Node

_SELECTED = ("DaemonSetSpec", "DeploymentSpec", "ReplicaSetSpec", "StatefulSetSpec")
_POINTERS = {(f"io.k8s.api.apps.v1.{kind}", "selector") for kind in _SELECTED} | {
    ("io.k8s.api.events.v1.Event", "eventTime")
}
"""Fields whose absence the real server tells from an empty value."""
_NON_ZERO = {("io.k8s.api.core.v1.ContainerPort", "containerPort")}
_STRICTER = {"io.k8s.api.core.v1.Container": ("image",)}
"""Required by validation, optional in OpenAPI."""
_VALUES = {("io.k8s.api.core.v1.PodTemplateSpec", "spec")}
"""Structs that are never absent to the real server, as every ``spec`` of an object, so what they require is required."""
_OPTIONAL = {
    ("io.k8s.api.apps.v1.StatefulSetSpec", "serviceName"),
    ("io.k8s.api.authentication.v1.TokenRequestSpec", "audiences"),
    ("io.k8s.api.core.v1.AzureDiskVolumeSource", "diskURI"),
    ("io.k8s.api.core.v1.HTTPHeader", "value"),
    ("io.k8s.api.core.v1.LimitRangeSpec", "limits"),
    ("io.k8s.api.core.v1.Sysctl", "value"),
    ("io.k8s.api.discovery.v1.Endpoint", "addresses"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "endpoints"),
    ("io.k8s.api.rbac.v1.PolicyRule", "verbs"),
    ("io.k8s.api.rbac.v1.RoleRef", "apiGroup"),
    ("io.k8s.api.storage.v1.CSINodeSpec", "drivers"),
    ("io.k8s.api.storage.v1.TokenRequest", "audience"),
}


def missing_fields(node: Node, value: Json, path: str = "") -> Iterator[Cause]:
    """``Required value`` for each required field below ``value`` that is absent or, for strings and lists, empty."""
    if isinstance(value, list) and node.items is not None:
        for index, item in enumerate(value):
            yield from missing_fields(node.items, item, f"{path}[{index}]")
    elif isinstance(value, dict) and node.additional is not None:
        for key, item in value.items():
            yield from missing_fields(node.additional, item, f"{path}[{key}]")
    elif isinstance(value, dict):
        prefix = f"{path}." if path else ""
        demands = _demands(node, bool(path))
        for name, child in demands.items():
            if _lacks(node, name, child, value.get(name)):
                yield Cause.required(prefix + name)
            elif value.get(name) is None and child.type == "object":
                yield from missing_fields(child, {}, prefix + name)
        for name, item in value.items():
            below = node.properties.get(name)
            if below is None or item is None or (name == "status" and not path):
                continue
            if isinstance(item, dict | list):
                yield from missing_fields(below, item, prefix + name)


@cache
def _demands(node: Node, nested: bool) -> dict[str, Node]:
    """The fields of a struct whose absence may be an error, here or further down."""
    names = [*node.raw.get("required", ()), *_STRICTER.get(node.definition, ())]
    return {
        name: child
        for name, child in node.properties.items()
        if (nested or name != "status") and (name in names or _never_absent(node, name, nested))
    }


def _never_absent(node: Node, name: str, nested: bool) -> bool:
    return (not nested and name == "spec") or (node.definition, name) in _VALUES


def _lacks(node: Node, name: str, child: Node, item: Json) -> bool:
    place = (node.definition, name)
    if place in _OPTIONAL:
        return False
    if place in _POINTERS:
        return item is None
    if place in _NON_ZERO:
        return not item
    match child.type:
        case "string" if child.format != "date-time":
            return not item
        case "array":
            return not item
        case "int-or-string":
            return item is None
    return False
