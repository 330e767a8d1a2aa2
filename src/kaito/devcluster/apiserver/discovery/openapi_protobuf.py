"""An OpenAPI v2 document as the protobuf message that Kubernetes' Go clients ask for: gnostic's ``openapi.v2.Document``."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from kaito.devcluster.apiserver.store import encode as to_json

Object = Mapping[str, Any]
Encoder = Callable[[Any], bytes]
_VARINT, _FIXED64, _BYTES = 0, 1, 2


def document(value: Object) -> bytes:
    return b"".join(
        (
            _text(1, value["swagger"]),
            _chunk(2, _text(1, value["info"]["title"]) + _text(2, value["info"]["version"])),
            _chunk(8, b"".join(_named(2, path, _path_item(item)) for path, item in value["paths"].items())),
            _chunk(9, b"".join(_named(1, name, _schema(schema)) for name, schema in value["definitions"].items())),
        )
    )


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _chunk(number: int, content: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _chunk(number, text.encode())


def _integer(number: int, value: int) -> bytes:
    return _tag(number, _VARINT) + _varint(int(value))


def _double(number: int, value: float) -> bytes:
    return _tag(number, _FIXED64) + struct.pack("<d", value)


def _named(number: int, name: str, content: bytes) -> bytes:
    """An entry of what is a map in JSON."""
    return _chunk(number, _text(1, name) + _chunk(2, content))


def _any(value: Any) -> bytes:
    """``openapi.v2.Any``, as YAML, which JSON is."""
    return _chunk(2, to_json(value))


def _extensions(number: int, value: Object) -> bytes:
    return b"".join(_named(number, name, _any(item)) for name, item in value.items() if name.startswith("x-"))


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_text(number, value) for value in values)


_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def _path_item(item: Object) -> bytes:
    methods = (_chunk(number, _operation(item[name])) for name, number in _METHODS.items() if name in item)
    return b"".join((*methods, *(_chunk(9, _parameter(parameter)) for parameter in item["parameters"])))


def _operation(operation: Object) -> bytes:
    responses = b"".join(
        _named(
            1, code, _chunk(1, _text(1, response["description"]) + _chunk(2, _chunk(1, _schema(response["schema"]))))
        )
        for code, response in operation["responses"].items()
    )
    return b"".join(
        (
            _texts(1, operation["tags"]),
            _text(5, operation["operationId"]),
            _texts(6, operation["produces"]),
            _texts(7, operation["consumes"]),
            *(_chunk(8, _parameter(parameter)) for parameter in operation["parameters"]),
            _chunk(9, responses),
            _extensions(13, operation),
        )
    )


def _parameter(parameter: Object) -> bytes:
    """``openapi.v2.ParametersItem``."""
    name, required = parameter["name"], bool(parameter.get("required"))
    if parameter["in"] == "body":
        body = _text(2, name) + _text(3, "body") + _integer(4, required) + _chunk(5, _schema(parameter["schema"]))
        return _chunk(1, _chunk(1, body))
    if parameter["in"] == "path":
        path = _integer(1, required) + _text(2, "path") + _text(4, name) + _text(5, parameter["type"])
        return _chunk(1, _chunk(2, _chunk(4, path)))
    query = _text(2, "query") + _text(4, name) + _text(6, parameter["type"])
    return _chunk(1, _chunk(2, _chunk(3, query)))


def _additional(value: Any) -> bytes:
    return _integer(2, value) if isinstance(value, bool) else _chunk(1, _schema(value))


def _scalar(number: int, encoder: Callable[[int, Any], bytes]) -> Encoder:
    return lambda value: encoder(number, value)


_SCHEMA: Final[Mapping[str, Encoder]] = {
    "$ref": _scalar(1, _text),
    "format": _scalar(2, _text),
    "title": _scalar(3, _text),
    "description": _scalar(4, _text),
    "default": lambda value: _chunk(5, _any(value)),
    "multipleOf": _scalar(6, _double),
    "maximum": _scalar(7, _double),
    "exclusiveMaximum": _scalar(8, _integer),
    "minimum": _scalar(9, _double),
    "exclusiveMinimum": _scalar(10, _integer),
    "maxLength": _scalar(11, _integer),
    "minLength": _scalar(12, _integer),
    "pattern": _scalar(13, _text),
    "maxItems": _scalar(14, _integer),
    "minItems": _scalar(15, _integer),
    "uniqueItems": _scalar(16, _integer),
    "maxProperties": _scalar(17, _integer),
    "minProperties": _scalar(18, _integer),
    "required": _scalar(19, _texts),
    "enum": lambda values: b"".join(_chunk(20, _any(value)) for value in values),
    "additionalProperties": lambda value: _chunk(21, _additional(value)),
    "type": lambda value: _chunk(22, _text(1, value)),
    "items": lambda value: _chunk(23, _chunk(1, _schema(value))),
    "properties": lambda value: _chunk(25, b"".join(_named(1, name, _schema(item)) for name, item in value.items())),
    "example": lambda value: _chunk(30, _any(value)),
}


def _schema(schema: Object) -> bytes:
    known = (_SCHEMA[name](value) for name, value in schema.items() if name in _SCHEMA)
    return b"".join((*known, _extensions(31, schema)))
