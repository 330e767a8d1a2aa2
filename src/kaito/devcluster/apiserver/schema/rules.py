"""``x-kubernetes-validations``: the CEL rules of a structural schema, compiled once, run over new and old objects."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from kaito.devcluster.apiserver.schema.cause import DUPLICATE, FORBIDDEN, INVALID, REQUIRED, Cause
from kaito.devcluster.apiserver.schema.cel import CelError, Program
from kaito.devcluster.apiserver.schema.formats import parse_date_time, parse_duration
from kaito.devcluster.apiserver.schema.node import Json, Node
from kaito.devcluster.apiserver.schema.structural import Path, render

ABSENT: Final = object()
"""There is no old value that corresponds to the new one."""
RuleCheck = Callable[[Json, Any, Path, list[Cause]], None]
Convert = Callable[[Json], Any]

REASONS: Final = frozenset({INVALID, REQUIRED, FORBIDDEN, DUPLICATE})
_OLD_SELF = re.compile(r"\boldSelf\b")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS = frozenset(
    (
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    )
)
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_FIELD_PATH = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\['([^']+)'\]")


def field_path_segments(text: str) -> list[str]:
    """``.spec['my.field']`` as path segments. Raises ValueError for anything that is not such a path."""
    segments, position = [], 0
    while match := _FIELD_PATH.match(text, position):
        segments.append(f".{match[1]}" if match[1] else f"[{match[2]}]")
        position = match.end()
    if not segments or position != len(text):
        raise ValueError(f"{text!r} is not a path such as .spec.field or .spec['field']")
    return segments


_SUBJECTS: Final = {"date-time": "timestamp", "duration": "duration"}
_PARSERS: Final[Mapping[str, Convert]] = {"timestamp": parse_date_time, "duration": parse_duration}


def _subject(node: Node) -> str:
    return _SUBJECTS.get(node.format, "dyn") if node.type == "string" else "dyn"


class Rule:
    """One validation rule. Raises CelError when its rule or messageExpression does not compile."""

    def __init__(self, spec: Mapping[str, Any], node: Node) -> None:
        subject = _subject(node)
        self.transition = bool(_OLD_SELF.search(spec["rule"]))
        self._optional = spec.get("optionalOldSelf") is True
        self._text = str(spec["rule"])
        self._message = str(spec.get("message") or f"failed rule: {self._text.strip()}")
        self._reason = str(spec.get("reason") or INVALID)
        self._segments = field_path_segments(spec["fieldPath"]) if spec.get("fieldPath") else []
        self._type_name = node.type or "object"
        expression = spec.get("messageExpression")
        if self._optional:
            self._with_old, self._without_old = (
                Program(f"cel.bind(oldSelf, {old}, {self._text})", subject=subject)
                for old in ("optional.of(priorSelf)", "optional.none()")
            )
        else:
            self._with_old = self._without_old = Program(self._text, subject=subject)
        self._message_program = Program(str(expression), returns="string", subject=subject) if expression else None

    def check(self, value: Any, old: Any, path: Path, causes: list[Cause]) -> None:
        if self.transition and old is ABSENT and not self._optional:
            return
        variables = {"self": value}
        if old is not ABSENT:
            variables |= {"oldSelf": old, "priorSelf": old}
        program = self._without_old if old is ABSENT else self._with_old
        try:
            if program.evaluate(variables):
                return
            message = self._explain(variables)
        except CelError as error:
            detail = f"{error} evaluating rule: {self._message}"
            causes.append(Cause.invalid(_place(path), self._type_name, detail))
            return
        for segment in self._segments:
            path = (path, segment)
        causes.append(self._cause(_place(path), message))

    def _explain(self, variables: Mapping[str, Any]) -> str:
        if self._message_program is None:
            return self._message
        try:
            text = str(self._message_program.evaluate(variables)).strip()
        except CelError:
            return self._message
        return text if text and "\n" not in text else self._message

    def _cause(self, field: str, message: str) -> Cause:
        match self._reason:
            case "FieldValueRequired":
                return Cause.required(field, message)
            case "FieldValueForbidden":
                return Cause.forbidden(field, message)
            case "FieldValueDuplicate":
                return Cause.duplicate(field, self._type_name)
        return Cause.invalid(field, self._type_name, message)


def _place(path: Path) -> str:
    return render(path) or "<nil>"


def compile_rules(node: Node) -> RuleCheck | None:
    """The rules at and below a place; None when there are none. Raises CelError."""
    rules = [Rule(spec, node) for spec in node.raw.get("x-kubernetes-validations", ())]
    fields = {
        name: below
        for name, child in node.properties.items()
        if not child.builtin and (below := compile_rules(child)) is not None
    }
    values = compile_rules(node.additional) if node.additional is not None else None
    elements = compile_rules(node.items) if node.items is not None else None
    if not (rules or fields or values or elements):
        return None
    convert = _PARSERS.get(_subject(node)) or _conversion(node) if rules else None
    keys = node.list_map_keys if node.list_type == "map" else ()

    def check(value: Json, old: Any, path: Path, causes: list[Cause]) -> None:
        if value is None:
            return
        if old is None:
            old = ABSENT
        if rules:
            seen = convert(value) if convert else value
            prior = convert(old) if convert and old is not ABSENT else old
            for rule in rules:
                rule.check(seen, prior, path, causes)
        if isinstance(value, dict):
            before = old if isinstance(old, dict) else {}
            for key, item in value.items():
                if key in fields:
                    fields[key](item, before.get(key, ABSENT), (path, f".{key}"), causes)
                elif values is not None:
                    values(item, before.get(key, ABSENT), (path, f"[{key}]"), causes)
        elif isinstance(value, list) and elements is not None:
            known = _by_keys(old, keys) if keys and isinstance(old, list) else {}
            for index, item in enumerate(value):
                elements(item, known.get(_identity(item, keys), ABSENT), (path, f"[{index}]"), causes)

    return check


def _identity(item: Json, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(repr(item.get(key)) for key in keys) if isinstance(item, dict) else ()


def _by_keys(items: list[Json], keys: tuple[str, ...]) -> dict[tuple[str, ...], Json]:
    return {_identity(item, keys): item for item in items if isinstance(item, dict)}


def _conversion(node: Node) -> Convert | None:
    """What turns a JSON value into the CEL value of its schema; None where both are the same."""
    match node.type, node.format:
        case "number", _:
            return float
        case "string", "byte":
            return base64.b64decode
        case "integer", _:
            return lambda value: int(value) if isinstance(value, float) else value
        case "array", _ if node.items is not None:
            convert = _conversion(node.items)
            return None if convert is None else lambda items: [convert(item) for item in items]
        case "object", _:
            return _object_conversion(node)
    return None


def _object_conversion(node: Node) -> Convert | None:
    values = _conversion(node.additional) if node.additional is not None else None
    if values is not None:
        return lambda entries: {key: values(item) for key, item in entries.items()}
    fields = {name: _conversion(child) for name, child in node.properties.items() if not child.builtin}
    renamed = {name: escaped for name in fields if (escaped := escape(name)) != name}
    if not renamed and not any(fields.values()):
        return None

    def convert(value: dict[str, Json]) -> dict[str, Any]:
        converted = {}
        for key, item in value.items():
            change = fields.get(key)
            converted[renamed.get(key, key)] = change(item) if change is not None and item is not None else item
        return converted

    return convert


def escape(name: str) -> str:
    """The CEL identifier of a property; names that cannot be one stay as they are and cannot be used in rules."""
    if name in _KEYWORDS:
        return f"__{name}__"
    escaped = re.sub(r"__|[./-]", lambda match: _ESCAPES[match[0]], name)
    return escaped if _IDENTIFIER.match(escaped) else name
