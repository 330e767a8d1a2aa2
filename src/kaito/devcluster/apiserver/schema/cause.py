"""One reason why an object is invalid, in the words of ``k8s.io/apimachinery``'s field errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.devcluster.apiserver.schema.node import Json

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
TYPE_INVALID = "FieldValueTypeInvalid"
FORBIDDEN = "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
DUPLICATE = "FieldValueDuplicate"


@dataclass(frozen=True, slots=True)
class Cause:
    """``field`` is a path such as ``spec.ports[0].name``; ``message`` is what follows ``field: `` in an error text."""

    field: str
    reason: str
    message: str

    @classmethod
    def required(cls, field: str, detail: str = "") -> Cause:
        return cls(field, REQUIRED, _join("Required value", detail))

    @classmethod
    def invalid(cls, field: str, value: Json, detail: str) -> Cause:
        return cls(field, INVALID, _join(f"Invalid value: {go_value(value)}", detail))

    @classmethod
    def type_invalid(cls, field: str, value: Json, detail: str) -> Cause:
        return cls(field, TYPE_INVALID, _join(f"Invalid value: {go_value(value)}", detail))

    @classmethod
    def not_supported(cls, field: str, value: Json, supported: Iterable[Json]) -> Cause:
        choices = ", ".join(quote(item if isinstance(item, str) else json.dumps(item)) for item in supported)
        return cls(field, NOT_SUPPORTED, f"Unsupported value: {go_value(value)}: supported values: {choices}")

    @classmethod
    def forbidden(cls, field: str, detail: str = "") -> Cause:
        return cls(field, FORBIDDEN, _join("Forbidden", detail))

    @classmethod
    def too_long(cls, field: str, limit: int) -> Cause:
        return cls(field, TOO_LONG, f"Too long: may not be more than {limit} bytes")

    @classmethod
    def too_many(cls, field: str, found: int, limit: int) -> Cause:
        return cls(field, TOO_MANY, f"Too many: {found}: must have at most {limit} items")

    @classmethod
    def duplicate(cls, field: str, value: Json) -> Cause:
        return cls(field, DUPLICATE, f"Duplicate value: {go_value(value)}")


def _join(head: str, detail: str) -> str:
    return f"{head}: {detail}" if detail else head


def quote(text: str) -> str:
    """Go's ``%q``."""
    return json.dumps(text, ensure_ascii=False)


def go_value(value: Json) -> str:
    """How Go's field errors print a value: plain for scalars, quoted for strings, a Go literal for the rest."""
    match value:
        case None:
            return '"null"'
        case dict() | list():
            return _go_literal(value)
        case str():
            return quote(value)
    return json.dumps(value)


def _go_literal(value: Json) -> str:
    match value:
        case None:
            return "interface {}(nil)"
        case dict():
            pairs = ", ".join(f"{quote(key)}:{_go_literal(item)}" for key, item in sorted(value.items()))
            return f"map[string]interface {{}}{{{pairs}}}"
        case list():
            return f"[]interface {{}}{{{', '.join(map(_go_literal, value))}}}"
    return go_value(value)
