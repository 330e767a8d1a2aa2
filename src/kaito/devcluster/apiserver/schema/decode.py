"""Type errors of built-in objects, in the words of the Go decoder that a real server uses."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema.formats import QUANTITY, is_date_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.devcluster.apiserver.schema.node import Json, Node

_INT_RANGES = {"int32": 2**31, "int64": 2**63}
_QUANTITY_HINT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def decode_errors(node: Node, value: Json, struct: str = "", path: str = "") -> Iterator[str]:
    """Every value of a wrong type below ``value``; null is absence. ``path`` has no list indices, as in Go."""
    if value is None:
        return
    match node.type:
        case "object":
            if not isinstance(value, dict):
                yield _mismatch(node, value, struct, path)
                return
            owner = node.definition.rpartition(".")[2] or struct
            for key, item in value.items():
                child = node.additional or node.properties.get(key)
                if child is not None:
                    yield from decode_errors(child, item, owner, f"{path}.{key}" if path else key)
        case "array":
            if not isinstance(value, list):
                yield _mismatch(node, value, struct, path)
            elif node.items is not None:
                for item in value:
                    yield from decode_errors(node.items, item, struct, path)
        case "integer":
            if not _is_int(value) or not -_INT_RANGES.get(node.format, 2**63) <= value < _INT_RANGES.get(
                node.format, 2**63
            ):
                yield _mismatch(node, value, struct, path)
        case "number":
            if isinstance(value, bool) or not isinstance(value, int | float):
                yield _mismatch(node, value, struct, path)
        case "boolean":
            if not isinstance(value, bool):
                yield _mismatch(node, value, struct, path)
        case "string":
            if isinstance(value, str):
                yield from _string_errors(node, value)
            else:
                yield _mismatch(node, value, struct, path)
        case "int-or-string":
            if not (isinstance(value, str) or _is_int(value)):
                yield f"json: cannot unmarshal {json_type(value)} into Go value of type int32"
        case "quantity":
            text = value if isinstance(value, str) else repr(value)
            if isinstance(value, bool | list | dict) or not QUANTITY.match(text):
                yield _QUANTITY_HINT


def json_type(value: Json) -> str:
    """What Go's decoder calls the value found; a number is named with its digits where a type cannot hold it."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
    return "object"


def _mismatch(node: Node, value: Json, struct: str, path: str) -> str:
    found = json_type(value)
    if found == "number" and node.type == "integer":
        found = f"number {value}"
    target = f"Go struct field {struct}.{path}" if path else "Go value"
    return f"json: cannot unmarshal {found} into {target} of type {node.go_type}"


def _string_errors(node: Node, value: str) -> Iterator[str]:
    if node.format == "byte":
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            yield f"illegal base64 data at input byte {_first_bad_byte(value)}"
    elif node.format == "date-time" and not is_date_time(value):
        yield f'parsing time "{value}" as "2006-01-02T15:04:05Z07:00": cannot parse "{value}" as "2006"'


def _first_bad_byte(value: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    return next((index for index, letter in enumerate(value) if letter not in alphabet), len(value) - len(value) % 4)


def _is_int(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
