"""The JSONPath of kubectl and of CRD printer columns: ``.status.conditions[?(@.type=="Ready")].status``.

It differs from the RFC's: keys may carry escaped dots (``.metadata.labels.karpenter\\.sh/nodepool``), filters compare
one path with one literal or path, and a missing key selects nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Json = Any
Step = Callable[[Json], Iterator[Json]]

_KEY = re.compile(r"(?:\\.|[^\\.\[\]()\s])+")
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(-?\d+))?\Z")
_FILTER = re.compile(r"\?\((.*)\)\Z", re.DOTALL)
_COMPARISON = re.compile(r"\s*(@[^=!<>]*?)\s*(?:(==|!=|<=|>=|<|>)\s*(.+?)\s*)?\Z", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


class JsonPathError(ValueError):
    """The text is no path; the message says where."""


class JsonPath:
    """A compiled path. Raises JsonPathError when ``text`` is none; braces around it are optional."""

    def __init__(self, text: str) -> None:
        self.text = text
        body = text.strip()
        if body.startswith("{") and body.endswith("}"):
            body = body[1:-1].strip()
        self._steps = list(_parse(body.removeprefix("$")))

    def find(self, value: Json) -> list[Json]:
        """Every value that the path selects, in document order."""
        found = [value]
        for step in self._steps:
            found = [selected for item in found for selected in step(item)]
        return found


def _parse(text: str) -> Iterator[Step]:
    position = 0
    while position < len(text):
        if text[position] == "[":
            end = _closing(text, position)
            yield _subscript(text[position + 1 : end].strip())
            position = end + 1
            continue
        if text.startswith("..", position):
            yield _descend
            position += 1
            if position + 1 < len(text) and text[position + 1] == "[":
                position += 1
                continue
        if text[position] != ".":
            raise JsonPathError(f"unexpected {text[position]!r} at position {position} of {text!r}")
        position += 1
        if position == len(text):
            return
        if text[position] == "*":
            yield _each
            position += 1
            continue
        match = _KEY.match(text, position)
        if match is None:
            raise JsonPathError(f"a field name is missing at position {position} of {text!r}")
        yield _field(re.sub(r"\\(.)", r"\1", match[0]))
        position = match.end()


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at ``start``; brackets in quotes do not count."""
    depth, quote = 0, ""
    for position in range(start, len(text)):
        letter = text[position]
        if quote:
            if letter == quote and text[position - 1] != "\\":
                quote = ""
        elif letter in "'\"":
            quote = letter
        elif letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
            if depth == 0:
                return position
    raise JsonPathError(f"unterminated '[' in {text!r}")


def _subscript(body: str) -> Step:
    if body == "*":
        return _each
    if match := _FILTER.match(body):
        return _filter(match[1])
    if body[:1] in ("'", '"') and body[-1:] == body[:1]:
        return _field(body[1:-1])
    if match := _SLICE.match(body):
        bounds = slice(*(int(bound) if bound else None for bound in match.groups()))
        return lambda value: iter(value[bounds]) if isinstance(value, list) else iter(())
    try:
        indices = [int(part) for part in body.split(",")]
    except ValueError:
        raise JsonPathError(f"invalid array index {body!r}") from None
    return lambda value: _at(value, indices)


def _at(value: Json, indices: list[int]) -> Iterator[Json]:
    if isinstance(value, list):
        yield from (value[index] for index in indices if -len(value) <= index < len(value))


def _each(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _descend(value: Json) -> Iterator[Json]:
    yield value
    for child in _each(value):
        yield from _descend(child)


def _field(name: str) -> Step:
    def step(value: Json) -> Iterator[Json]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _filter(body: str) -> Step:
    match = _COMPARISON.match(body)
    if match is None:
        raise JsonPathError(f"unrecognized filter {body!r}")
    left = JsonPath(match[1][1:])
    if match[2] is None:
        return lambda value: (item for item in _each(value) if left.find(item))
    compare, right = _COMPARE[match[2]], _operand(match[3])

    def step(value: Json) -> Iterator[Json]:
        for item in _each(value):
            try:
                if any(compare(one, other) for one in left.find(item) for other in right(item)):
                    yield item
            except TypeError:
                continue

    return step


def _operand(text: str) -> Callable[[Json], list[Json]]:
    if text.startswith("@"):
        return JsonPath(text[1:]).find
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        literal: Json = text[1:-1]
    elif text in ("true", "false"):
        literal = text == "true"
    else:
        try:
            literal = float(text)
        except ValueError:
            raise JsonPathError(f"unrecognized operand {text!r} in a filter") from None
    return lambda _: [literal]
