"""Values against a structural schema, compiled once into closures.

Messages are those of ``kube-openapi``'s validator. CEL rules are not run here, see ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import re2

from kaito.devcluster.apiserver.schema.cause import Cause
from kaito.devcluster.apiserver.schema.formats import FORMATS
from kaito.devcluster.apiserver.schema.node import Json, Node

Path = tuple["Path", str] | None
"""A place as a chain of segments, ``.name`` or ``[0]``, so that a valid object costs no string building."""
Check = Callable[[Json, Path, list[Cause]], None]

_BOUNDED_FORMATS = {"int32": 2**31, "int64": 2**63}


def render(path: Path) -> str:
    segments: list[str] = []
    while path is not None:
        path, segment = path
        segments.append(segment)
    return "".join(reversed(segments)).removeprefix(".")


def compile_structural(node: Node) -> Check:
    """The check of one schema and all below it."""
    checks = [*_value_checks(node), *_container_checks(node), *_composition_checks(node)]
    accepts = _type_check(node)
    expected = "integer,string" if node.type == "int-or-string" else node.type
    nullable = node.nullable

    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if value is None and nullable:
            return
        if accepts is not None and not accepts(value):
            found = _type_name(value)
            causes.append(
                Cause.type_invalid(render(path), found, _body(path, f'must be of type {expected}: "{found}"'))
            )
            return
        for each in checks:
            each(value, path, causes)

    return check


def _body(path: Path, text: str) -> str:
    return f"{render(path)} in body {text}"


def _type_name(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case dict():
            return "object"
        case list():
            return "array"
        case float() if not value.is_integer():
            return "number"
    return "integer"


def _is_integer(value: Json) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_TYPE_CHECKS: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "int-or-string": lambda value: isinstance(value, str) or _is_integer(value),
}


def _type_check(node: Node) -> Callable[[Json], bool] | None:
    return _TYPE_CHECKS.get(node.type)


def _equal(left: Json, right: Json) -> bool:
    return left == right and isinstance(left, bool) is isinstance(right, bool)


def _value_checks(node: Node) -> Iterable[Check]:
    raw = node.raw
    if "enum" in raw:
        yield _enum(raw["enum"])
    if any(key in raw for key in ("minimum", "maximum", "multipleOf")) or node.format in _BOUNDED_FORMATS:
        yield _number(raw, node.format)
    if any(key in raw for key in ("minLength", "maxLength", "pattern")) or node.format in FORMATS:
        yield _string(raw, node.format)


def _enum(choices: Sequence[Json]) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not any(_equal(value, choice) for choice in choices):
            causes.append(Cause.not_supported(render(path), value, choices))

    return check


def _number(raw: dict[str, Any], format: str) -> Check:
    minimum, maximum, multiple = raw.get("minimum"), raw.get("maximum"), raw.get("multipleOf")
    above = raw.get("exclusiveMinimum") is True
    below = raw.get("exclusiveMaximum") is True
    bound = _BOUNDED_FORMATS.get(format)

    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return

        def fail(text: str) -> None:
            causes.append(Cause.invalid(render(path), value, _body(path, text)))

        if minimum is not None and (value <= minimum if above else value < minimum):
            fail(f"should be greater than {'' if above else 'or equal to '}{minimum:g}")
        if maximum is not None and (value >= maximum if below else value > maximum):
            fail(f"should be less than {'' if below else 'or equal to '}{maximum:g}")
        if multiple is not None and abs(value / multiple - round(value / multiple)) > 1e-9:
            fail(f"should be a multiple of {multiple:g}")
        if bound is not None and not -bound <= value < bound:
            fail(f"must be of type {format}: {value}")

    return check


def _string(raw: dict[str, Any], format: str) -> Check:
    shortest, longest, pattern = raw.get("minLength"), raw.get("maxLength"), raw.get("pattern")
    matcher = re2.compile(pattern) if pattern is not None else None
    valid = FORMATS.get(format)

    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not isinstance(value, str):
            return
        if longest is not None and len(value) > longest:
            causes.append(Cause.too_long(render(path), longest))
        if shortest is not None and len(value) < shortest:
            detail = _body(path, f"should be at least {shortest} chars long")
            causes.append(Cause.invalid(render(path), value, detail))
        if matcher is not None and not matcher.search(value):
            causes.append(Cause.invalid(render(path), value, _body(path, f"should match '{pattern}'")))
        if valid is not None and not valid(value):
            detail = _body(path, f'must be of type {format}: "{value}"')
            causes.append(Cause.type_invalid(render(path), value, detail))

    return check


def _container_checks(node: Node) -> Iterable[Check]:
    raw = node.raw
    required = [*raw.get("required", ())]
    if raw.get("x-kubernetes-embedded-resource") is True:
        required += [name for name in ("apiVersion", "kind") if name not in required]
    fields = {name: compile_structural(child) for name, child in node.properties.items() if not child.builtin}
    values = compile_structural(node.additional) if node.additional is not None else None
    if required or fields or values or "minProperties" in raw or "maxProperties" in raw:
        yield _object(required, fields, values, raw.get("minProperties"), raw.get("maxProperties"))
    elements = compile_structural(node.items) if node.items is not None else None
    if elements or "minItems" in raw or "maxItems" in raw:
        yield _array(elements, raw.get("minItems"), raw.get("maxItems"))
    if node.list_type in ("map", "set") or raw.get("uniqueItems") is True:
        yield _unique(node)


def _object(
    required: Sequence[str], fields: dict[str, Check], values: Check | None, fewest: int | None, most: int | None
) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not isinstance(value, dict):
            return
        causes.extend(Cause.required(render((path, f".{name}"))) for name in required if name not in value)
        if fewest is not None and len(value) < fewest:
            detail = _body(path, f"should have at least {fewest} properties")
            causes.append(Cause.invalid(render(path), len(value), detail))
        if most is not None and len(value) > most:
            causes.append(Cause.too_many(render(path), len(value), most))
        for key, item in value.items():
            each = fields.get(key, values)
            if each is not None:
                each(item, (path, f".{key}"), causes)

    return check


def _array(elements: Check | None, fewest: int | None, most: int | None) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not isinstance(value, list):
            return
        if fewest is not None and len(value) < fewest:
            detail = _body(path, f"should have at least {fewest} items")
            causes.append(Cause.invalid(render(path), len(value), detail))
        if most is not None and len(value) > most:
            causes.append(Cause.too_many(render(path), len(value), most))
        if elements is not None:
            for index, item in enumerate(value):
                elements(item, (path, f"[{index}]"), causes)

    return check


def _unique(node: Node) -> Check:
    keys = node.list_map_keys if node.list_type == "map" else ()

    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not isinstance(value, list):
            return
        seen: set[bytes] = set()
        for index, item in enumerate(value):
            identity = {key: item.get(key) for key in keys if key in item} if keys and isinstance(item, dict) else item
            encoded = msgspec.json.encode(identity, order="sorted")
            if encoded in seen:
                causes.append(Cause.duplicate(render((path, f"[{index}]")), identity))
            seen.add(encoded)

    return check


def _composition_checks(node: Node) -> Iterable[Check]:
    raw = node.raw
    if "allOf" in raw:
        yield _all_of(_branches(raw["allOf"]))
    if "anyOf" in raw and node.type != "int-or-string":
        yield _any_of(_branches(raw["anyOf"]))
    if "oneOf" in raw:
        yield _one_of(_branches(raw["oneOf"]))
    if "not" in raw:
        yield _not(compile_structural(Node(raw["not"])))


def _branches(schemas: Sequence[dict[str, Any]]) -> list[Check]:
    return [compile_structural(Node(schema)) for schema in schemas]


def _attempts(branches: Sequence[Check], value: Json, path: Path) -> list[list[Cause]]:
    outcomes: list[list[Cause]] = []
    for branch in branches:
        found: list[Cause] = []
        branch(value, path, found)
        outcomes.append(found)
    return outcomes


def _closest(outcomes: Sequence[list[Cause]]) -> list[Cause]:
    """What the branch that came nearest complains of."""
    return min(outcomes, key=lambda causes: len(causes), default=[])


def _composed(path: Path, text: str) -> Cause:
    place = render(path)
    return Cause.invalid(place, "", f'"{place}" {text}')


def _all_of(branches: Sequence[Check]) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        failures = [cause for outcome in _attempts(branches, value, path) for cause in outcome]
        if failures:
            causes.extend([_composed(path, "must validate all the schemas (allOf)"), *failures])

    return check


def _any_of(branches: Sequence[Check]) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        outcomes = _attempts(branches, value, path)
        if all(outcomes):
            text = "must validate at least one schema (anyOf)"
            causes.extend([_composed(path, text), *_closest(outcomes)])

    return check


def _one_of(branches: Sequence[Check]) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        outcomes = _attempts(branches, value, path)
        valid = sum(not outcome for outcome in outcomes)
        if valid == 1:
            return
        found = f"Found {valid} valid alternatives" if valid else "Found none valid"
        causes.append(_composed(path, f"must validate one and only one schema (oneOf). {found}"))
        if not valid:
            causes.extend(_closest(outcomes))

    return check


def _not(branch: Check) -> Check:
    def check(value: Json, path: Path, causes: list[Cause]) -> None:
        if not _attempts([branch], value, path)[0]:
            causes.append(_composed(path, "must not validate the schema (not)"))

    return check
