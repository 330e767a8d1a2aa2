"""Label and field selectors: parse, render, match. Syntax and semantics of ``k8s.io/apimachinery`` labels and fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
_KEY = re.compile(rf"(?:(?:{_PREFIX})/)?{_NAME}\Z")
_VALUE = re.compile(rf"(?:{_NAME})?\Z")
_TOKEN = re.compile(r"\s*(==|!=|=|,|\(|\)|>|<|!|[^\s=!,()<>]+)")

IN, NOT_IN, EXISTS, DOES_NOT_EXIST, GREATER, LESS = "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"


class Requirement(msgspec.Struct, frozen=True):
    """One term of a label selector. ``operator`` is one of In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _KEY.match(self.key):
            raise ValueError(f"{self.key!r} is not a label key")
        for value in self.values:
            if not _VALUE.match(value):
                raise ValueError(
                    f"{value!r} is not a label value: at most 63 letters, digits, '-', '_' or '.', alphanumeric at both ends"
                )
        if self.operator in (IN, NOT_IN):
            if not self.values:
                raise ValueError(f"operator {self.operator} on {self.key!r} needs at least one value")
        elif self.operator in (EXISTS, DOES_NOT_EXIST):
            if self.values:
                raise ValueError(f"operator {self.operator} on {self.key!r} takes no values")
        elif self.operator in (GREATER, LESS):
            if len(self.values) != 1 or not re.fullmatch(r"-?\d+", self.values[0]):
                raise ValueError(f"operator {self.operator} on {self.key!r} takes one integer")
        else:
            raise ValueError(f"{self.operator!r} is not a selector operator")

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        return int(value) > int(self.values[0]) if self.operator == GREATER else int(value) < int(self.values[0])

    def __str__(self) -> str:
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "NotIn" if len(self.values) == 1:
                return f"{self.key}!={self.values[0]}"
            case "In" | "NotIn":
                return f"{self.key} {self.operator.lower()} ({','.join(sorted(self.values))})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
        return f"{self.key}{'>' if self.operator == GREATER else '<'}{self.values[0]}"


class LabelSelector(msgspec.Struct, frozen=True):
    """A conjunction of requirements; the empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()

    @staticmethod
    def parse(text: str) -> LabelSelector:
        """The selector for the query-string form, such as ``a=b,c in (d,e),!f``. Raises ValueError."""
        return LabelSelector(tuple(_parse(text)))

    @staticmethod
    def of(labels: Mapping[str, str]) -> LabelSelector:
        """The selector that asks for each of ``labels``."""
        return LabelSelector(tuple(Requirement(key, IN, (value,)) for key, value in sorted(labels.items())))

    @staticmethod
    def from_object(selector: Mapping[str, Any] | None) -> LabelSelector | None:
        """The selector for a ``metav1.LabelSelector`` object; None, which matches nothing, where it is absent."""
        if selector is None:
            return None
        terms = list(LabelSelector.of(selector.get("matchLabels") or {}).requirements)
        terms += [
            Requirement(term["key"], term["operator"], tuple(term.get("values") or ()))
            for term in selector.get("matchExpressions") or ()
        ]
        return LabelSelector(tuple(terms))

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        labels = labels or {}
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))

    def __bool__(self) -> bool:
        return bool(self.requirements)


def _parse(text: str) -> Iterable[Requirement]:
    tokens: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if not found:
            raise ValueError(f"unable to parse label selector {text!r} at {text[position:]!r}")
        tokens.append(found[1])
        position = found.end()
    index = 0

    def take(*expected: str) -> str:
        nonlocal index
        token = tokens[index] if index < len(tokens) else ""
        if not token or (expected and token not in expected):
            wanted = " or ".join(map(repr, expected)) or "a key or value"
            raise ValueError(f"unable to parse label selector {text!r}: found {token!r}, expected {wanted}")
        index += 1
        return token

    def peek() -> str:
        return tokens[index] if index < len(tokens) else ""

    while index < len(tokens):
        if peek() == "!":
            take("!")
            yield Requirement(take(), DOES_NOT_EXIST)
        else:
            key = take()
            operator = peek()
            if operator in ("", ","):
                yield Requirement(key, EXISTS)
            elif operator in ("=", "==", "!="):
                take()
                value = take() if peek() not in ("", ",") else ""
                yield Requirement(key, NOT_IN if operator == "!=" else IN, (value,))
            elif operator in (">", "<"):
                take()
                yield Requirement(key, GREATER if operator == ">" else LESS, (take(),))
            elif operator in ("in", "notin"):
                take()
                take("(")
                values: list[str] = []
                while True:
                    values.append("" if peek() in (",", ")") else take())
                    if take(",", ")") == ")":
                        break
                yield Requirement(key, IN if operator == "in" else NOT_IN, tuple(values))
            else:
                raise ValueError(f"unable to parse label selector {text!r}: {operator!r} is not an operator")
        if index < len(tokens):
            take(",")
            if index == len(tokens):
                raise ValueError(f"unable to parse label selector {text!r}: it ends with ','")


class FieldTerm(msgspec.Struct, frozen=True):
    field: str
    value: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field}{'!=' if self.negated else '='}{self.value}"


class FieldSelector(msgspec.Struct, frozen=True):
    """A conjunction of field equalities; the empty selector matches everything."""

    terms: tuple[FieldTerm, ...] = ()

    @staticmethod
    def parse(text: str) -> FieldSelector:
        """The selector for the query-string form, such as ``metadata.name=x,status.phase!=Running``. Raises ValueError."""
        terms = []
        for part in filter(None, _split_escaped(text)):
            for operator in ("!=", "==", "="):
                field, found, value = part.partition(operator)
                if found:
                    terms.append(FieldTerm(field.strip(), _unescape(value), operator == "!="))
                    break
            else:
                raise ValueError(f"invalid field selector {text!r}: {part!r} has no operator")
        return FieldSelector(tuple(terms))

    def matches(self, value_of: Callable[[str], str]) -> bool:
        """``value_of`` gives the object's value of a field, ``""`` where it has none."""
        return all((value_of(term.field) == term.value) != term.negated for term in self.terms)

    def value(self, field: str) -> str | None:
        """The value that ``field`` must equal, if the selector says so."""
        return next((term.value for term in self.terms if term.field == field and not term.negated), None)

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))

    def __bool__(self) -> bool:
        return bool(self.terms)


def _split_escaped(text: str) -> list[str]:
    return re.split(r"(?<!\\),", text)


def _unescape(value: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", value)
