"""Which fields of an object the schema knows: naming the unknown, dropping them, filling in defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.devcluster.apiserver.schema.node import Json, Node


def unknown_fields(node: Node, value: Json, path: str = "") -> Iterator[str]:
    """Paths of fields that the schema does not name, in document order: ``spec.containers[0].imagee``."""
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        if node.additional is not None:
            for key, item in value.items():
                yield from unknown_fields(node.additional, item, prefix + key)
            return
        for key, item in value.items():
            child = node.properties.get(key)
            if child is not None:
                yield from unknown_fields(child, item, prefix + key)
            elif not node.open and _is_object(node):
                yield prefix + key
    elif isinstance(value, list) and node.items is not None:
        for index, item in enumerate(value):
            yield from unknown_fields(node.items, item, f"{path}[{index}]")


def prune(node: Node, value: Json) -> None:
    """Drop, in place, what ``unknown_fields`` names."""
    if isinstance(value, dict):
        if node.additional is not None:
            for item in value.values():
                prune(node.additional, item)
            return
        for key in list(value):
            child = node.properties.get(key)
            if child is not None:
                prune(child, value[key])
            elif not node.open and _is_object(node):
                del value[key]
    elif isinstance(value, list) and node.items is not None:
        for item in value:
            prune(node.items, item)


def default(node: Node, value: Json) -> None:
    """Fill in ``default`` values, in place. A null where null is not allowed counts as absent."""
    if isinstance(value, dict):
        for key, child in node.properties.items():
            if child.builtin:
                continue
            if key in value and value[key] is None and not child.nullable:
                del value[key]
            if key not in value and "default" in child.raw:
                value[key] = copy_json(child.raw["default"])
            if key in value:
                default(child, value[key])
        if node.additional is not None:
            for item in value.values():
                default(node.additional, item)
    elif isinstance(value, list) and node.items is not None:
        for item in value:
            default(node.items, item)


def copy_json(value: Json) -> Json:
    """A copy that shares no container with ``value``."""
    return msgspec.to_builtins(value)


def _is_object(node: Node) -> bool:
    """A dict where the schema wants a scalar is a type error, not an unknown field."""
    return node.type == "object"
