"""The OpenAPI v2 document of the whole server, made from the v3 documents of its groups and versions.

It is for older clients, and for those that merge or explain by it. What version 2 cannot say of custom resources is left out,
as kube-apiserver does: alternatives, values that may be null, and the fields of objects that keep unknown ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from kaito.devcluster.apiserver.schema.definitions import REFERENCE

Object = dict[str, Any]

REFERENCE_V2: Final = "#/definitions/"
PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
PROTOBUF_TYPES: Final = (PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
"""The second is how it was written once; it is no media type."""
_METHODS: Final = ("get", "put", "post", "delete", "patch")
_LEFT_OUT: Final = frozenset({"anyOf", "oneOf", "not", "nullable", "allOf"})
_STRUCTURE: Final = frozenset({"type", "items", "properties", "additionalProperties"})
_PRODUCED: Final = ("application/json", "application/yaml")


def document(parts: Iterable[Object]) -> Object:
    """One document of the v3 documents ``parts``."""
    paths: Object = {}
    definitions: Object = {}
    info: Object = {}
    for part in parts:
        info = part["info"]
        paths |= {path: _path_item(item) for path, item in part["paths"].items()}
        for name, schema in part["components"]["schemas"].items():
            definitions.setdefault(name, _schema(schema))
    return {
        "swagger": "2.0",
        "info": info,
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(definitions.items())),
    }


def _path_item(item: Object) -> Object:
    methods: Object = {method: _operation(item[method]) for method in _METHODS if method in item}
    return {**methods, "parameters": [_parameter(parameter) for parameter in item.get("parameters", ())]}


def _operation(operation: Object) -> Object:
    converted = {name: value for name, value in operation.items() if name not in ("requestBody", "responses")}
    parameters = [_parameter(parameter) for parameter in operation["parameters"]]
    body = operation.get("requestBody")
    if body is not None:
        schema = next(iter(body["content"].values()))["schema"]
        parameters.insert(0, {"name": "body", "in": "body", "required": True, "schema": _schema(schema)})
    responses = {
        code: {
            "description": response["description"],
            "schema": _schema(response["content"]["application/json"]["schema"]),
        }
        for code, response in operation["responses"].items()
    }
    consumed = list(body["content"]) if body is not None else ["*/*"]
    return {
        **converted,
        "consumes": consumed,
        "produces": list(_PRODUCED),
        "parameters": parameters,
        "responses": responses,
    }


def _parameter(parameter: Object) -> Object:
    flat = {name: value for name, value in parameter.items() if name != "schema"}
    return {**flat, "type": parameter["schema"]["type"], "uniqueItems": True}


def _schema(schema: Object) -> Object:
    target = schema.get("$ref") or _only_reference(schema)
    if target:
        converted: Object = {"$ref": REFERENCE_V2 + target.removeprefix(REFERENCE)}
        return converted | {name: schema[name] for name in schema if name not in ("$ref", "allOf", "default")}
    dropped = _LEFT_OUT
    if schema.get("nullable") or schema.get("x-kubernetes-preserve-unknown-fields"):
        dropped |= _STRUCTURE
    return {name: _converted(name, value) for name, value in schema.items() if name not in dropped}


def _only_reference(schema: Object) -> str:
    parts: list[Object] = schema.get("allOf") or []
    return str(parts[0].get("$ref", "")) if len(parts) == 1 else ""


def _converted(name: str, value: Any) -> Any:
    if name == "properties":
        return {child: _schema(schema) for child, schema in value.items()}
    if name in ("items", "additionalProperties") and isinstance(value, dict):
        return _schema(value)
    return value
