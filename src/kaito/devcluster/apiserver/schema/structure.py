"""Whether a CRD's ``openAPIV3Schema`` is structural.

Every value has a type, and nothing is written that a server cannot prune, default and validate by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import re2

from kaito.devcluster.apiserver.schema.cause import Cause
from kaito.devcluster.apiserver.schema.cel import CelError
from kaito.devcluster.apiserver.schema.node import Node
from kaito.devcluster.apiserver.schema.rules import REASONS, Rule
from kaito.devcluster.apiserver.schema.structural import compile_structural

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_FORBIDDEN: Final = {
    "$ref": "$ref is not supported",
    "$schema": "$schema is not supported",
    "id": "id is not supported",
    "definitions": "definitions is not supported",
    "dependencies": "dependencies is not supported",
    "patternProperties": "patternProperties is not supported",
    "additionalItems": "additionalItems is not supported",
}
_JUNCTORS: Final = ("allOf", "anyOf", "oneOf")
_ONLY_IN_STRUCTURE: Final = (
    "type",
    "description",
    "title",
    "default",
    "nullable",
    "additionalProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
_METADATA_FIELDS: Final = {"name", "generateName"}


def structural_causes(schema: Object, path: str) -> Iterator[Cause]:
    """What keeps ``schema``, the one of a whole version, from being structural. ``path`` is its place in the CRD."""
    if schema.get("type") != "object":
        if schema.get("type"):
            yield Cause.invalid(f"{path}.type", schema["type"], "must be object at the root")
        else:
            yield Cause.required(f"{path}.type", "must not be empty at the root")
    metadata = schema.get("properties", {}).get("metadata")
    if isinstance(metadata, dict) and set(metadata) - {"type", "description", "properties"}:
        yield Cause.forbidden(
            f"{path}.properties[metadata]",
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        )
    elif isinstance(metadata, dict) and set(metadata.get("properties") or ()) - _METADATA_FIELDS:
        yield Cause.forbidden(
            f"{path}.properties[metadata].properties", "must not specify anything other than name and generateName"
        )
    yield from _node_causes(schema, path, root=True)


def _node_causes(schema: Any, path: str, *, root: bool = False, element: str = "object fields") -> Iterator[Cause]:
    if not isinstance(schema, dict):
        yield Cause.invalid(path, schema, "must be a schema")
        return
    yield from _type_causes(schema, path, root, element)
    yield from _keyword_causes(schema, path)
    yield from _list_causes(schema, path)
    for keyword in _JUNCTORS:
        for index, branch in enumerate(schema.get(keyword, ())):
            yield from _junctor_causes(branch, schema, f"{path}.{keyword}[{index}]")
    if "not" in schema:
        yield from _junctor_causes(schema["not"], schema, f"{path}.not")
    for name, child in (schema.get("properties") or {}).items():
        if not (root and name in ("metadata", "apiVersion", "kind")):
            yield from _node_causes(child, f"{path}.properties[{name}]")
    additional = schema.get("additionalProperties")
    if isinstance(additional, dict):
        yield from _node_causes(additional, f"{path}.additionalProperties")
    if isinstance(schema.get("items"), dict):
        yield from _node_causes(schema["items"], f"{path}.items", element="array items")
    yield from _default_causes(schema, path)
    yield from _rule_causes(schema, path)


def _type_causes(schema: Object, path: str, root: bool, element: str) -> Iterator[Cause]:
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string") is True:
        if kind:
            yield Cause.forbidden(f"{path}.type", "must be empty if x-kubernetes-int-or-string is true")
    elif not kind:
        if not root and schema.get("x-kubernetes-preserve-unknown-fields") is not True:
            yield Cause.required(f"{path}.type", f"must not be empty for specified {element}")
    elif kind not in _TYPES:
        yield Cause.not_supported(f"{path}.type", kind, _TYPES)


def _keyword_causes(schema: Object, path: str) -> Iterator[Cause]:
    for keyword, detail in _FORBIDDEN.items():
        if keyword in schema:
            yield Cause.forbidden(f"{path}.{keyword}", detail)
    if schema.get("uniqueItems") is True:
        detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        yield Cause.forbidden(f"{path}.uniqueItems", detail)
    additional = schema.get("additionalProperties")
    if additional is False:
        yield Cause.forbidden(f"{path}.additionalProperties", "additionalProperties cannot be set to false")
    elif additional is not None and schema.get("properties"):
        yield Cause.forbidden(
            f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive"
        )
    if isinstance(schema.get("items"), list):
        yield Cause.forbidden(f"{path}.items", "items must be a schema object and not an array")
    elif schema.get("type") == "array" and "items" not in schema:
        yield Cause.required(f"{path}.items", "must be specified")
    if schema.get("x-kubernetes-embedded-resource") is True and schema.get("type") != "object":
        yield Cause.invalid(
            f"{path}.type", schema.get("type"), "must be object if x-kubernetes-embedded-resource is true"
        )
    if "pattern" in schema:
        try:
            re2.compile(schema["pattern"])
        except re2.error as error:
            yield Cause.invalid(f"{path}.pattern", schema["pattern"], f"must be a valid regular expression: {error}")


def _list_causes(schema: Object, path: str) -> Iterator[Cause]:
    kind = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys")
    if kind is not None and kind not in ("atomic", "map", "set"):
        yield Cause.not_supported(f"{path}.x-kubernetes-list-type", kind, ("atomic", "map", "set"))
    if kind is not None and schema.get("type") != "array":
        detail = "must be array if x-kubernetes-list-type is specified"
        yield Cause.invalid(f"{path}.type", schema.get("type", ""), detail)
    if kind != "map":
        if keys:
            yield Cause.forbidden(
                f"{path}.x-kubernetes-list-map-keys", "must be empty if x-kubernetes-list-type is not map"
            )
        return
    if not keys:
        yield Cause.required(f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map")
    items = schema.get("items") if isinstance(schema.get("items"), dict) else {}
    properties = (items or {}).get("properties") or {}
    for index, key in enumerate(keys or ()):
        if key not in properties:
            detail = "entries must all be names of item properties"
            yield Cause.invalid(f"{path}.x-kubernetes-list-map-keys[{index}]", key, detail)
        elif key not in (items or {}).get("required", ()) and "default" not in properties[key]:
            detail = (
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            )
            yield Cause.required(f"{path}.items.properties[{key}].default", detail)


def _junctor_causes(branch: Any, parent: Object, path: str) -> Iterator[Cause]:
    """A branch of allOf, anyOf, oneOf or not may narrow values, never describe structure."""
    if not isinstance(branch, dict):
        yield Cause.invalid(path, branch, "must be a schema")
        return
    for keyword in _ONLY_IN_STRUCTURE:
        if keyword in branch and not (keyword == "type" and parent.get("x-kubernetes-int-or-string") is True):
            detail = "must be empty to be structural" if keyword == "type" else "must be undefined to be structural"
            yield Cause.forbidden(f"{path}.{keyword}", detail)
    known = parent.get("properties") or {}
    for name, child in (branch.get("properties") or {}).items():
        place = f"{path}.properties[{name}]"
        if name in known:
            yield from _junctor_causes(child, known[name], place)
        elif not isinstance(parent.get("additionalProperties"), dict):
            yield Cause.required(
                place.replace(path, path.rpartition(".")[0], 1),
                f"because it is defined in {place}",
            )
    for keyword in _JUNCTORS:
        for index, nested in enumerate(branch.get(keyword, ())):
            yield from _junctor_causes(nested, parent, f"{path}.{keyword}[{index}]")
    if "not" in branch:
        yield from _junctor_causes(branch["not"], parent, f"{path}.not")


def _default_causes(schema: Object, path: str) -> Iterator[Cause]:
    if "default" not in schema:
        return
    found: list[Cause] = []
    try:
        compile_structural(Node(schema))(schema["default"], None, found)
    except re2.error:
        return
    for cause in found:
        yield Cause(f"{path}.default{'.' if cause.field else ''}{cause.field}", cause.reason, cause.message)


def _rule_causes(schema: Object, path: str) -> Iterator[Cause]:
    for index, spec in enumerate(schema.get("x-kubernetes-validations", ())):
        place = f"{path}.x-kubernetes-validations[{index}]"
        if not spec.get("rule"):
            yield Cause.required(f"{place}.rule", "rule is not specified")
            continue
        if spec.get("reason") and spec["reason"] not in REASONS:
            yield Cause.not_supported(f"{place}.reason", spec["reason"], sorted(REASONS))
        try:
            rule = Rule(spec, Node(schema))
        except CelError as error:
            yield Cause.invalid(f"{place}.rule", spec["rule"], f"compilation failed: {error}")
            continue
        except ValueError as error:
            yield Cause.invalid(f"{place}.fieldPath", spec["fieldPath"], f"fieldPath must be a valid path: {error}")
            continue
        if spec.get("optionalOldSelf") is True and not rule.transition:
            detail = "option is only valid for rules that use oldSelf"
            yield Cause.invalid(f"{place}.optionalOldSelf", True, detail)
