"""Sets of fields, and their form in ``managedFields``.

A place is a tuple of steps, each as FieldsV1 writes it: ``f:name`` of a struct or map, ``k:{"name":"c"}`` of a list by its
keys, ``v:"x"`` of a set by value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kaito.devcluster.apiserver.store import encode_sorted

Path = tuple[str, ...]
FieldSet = frozenset[Path]
NOTHING: Final[FieldSet] = frozenset()
_SELF: Final = "."
_STEP: Final = re.compile(r"[fkvi]:")


def field(name: str) -> str:
    return f"f:{name}"


def key(values: dict[str, Any]) -> str:
    return f"k:{encode_sorted(values).decode()}"


def value(item: Any) -> str:
    return f"v:{encode_sorted(item).decode()}"


def to_fields_v1(fields: FieldSet) -> dict[str, Any]:
    """A place that has others below it carries ``.`` where it is one of the set itself."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        below = tree
        for step in path:
            below = below.setdefault(step, {})
        below[_SELF] = {}
    return _without_self_of_leaves(tree)


def _without_self_of_leaves(tree: dict[str, Any]) -> dict[str, Any]:
    if tree.keys() == {_SELF}:
        return {}
    return {step: below if step == _SELF else _without_self_of_leaves(below) for step, below in tree.items()}


def from_fields_v1(tree: dict[str, Any]) -> FieldSet:
    """Raises ValueError for what is no FieldsV1."""
    found: set[Path] = set()
    _collect(tree, (), found)
    return frozenset(found)


def _collect(tree: Any, path: Path, found: set[Path]) -> None:
    if not isinstance(tree, dict):
        raise ValueError(f"{shown(path) or 'fieldsV1'} must be an object")  # noqa: TRY004 - it is data that is wrong
    if not tree and path:
        found.add(path)
    for step, below in tree.items():
        if step == _SELF:
            found.add(path)
        elif _STEP.match(step):
            _collect(below, (*path, step), found)
        else:
            raise ValueError(f"{step!r} is no step of a field's path")


def below(fields: Iterable[Path], *prefix: str) -> FieldSet:
    """Those at a place and below it."""
    return frozenset(path for path in fields if path[: len(prefix)] == prefix)


def prefixes(fields: Iterable[Path]) -> FieldSet:
    """Every place on the way to one of ``fields``, itself included."""
    return frozenset(path[:length] for path in fields for length in range(1, len(path) + 1))


def shown(path: Path) -> str:
    """As messages name it: ``.spec.template.spec.containers[name="c"].image``."""
    return "".join(map(_shown_step, path))


def _shown_step(step: str) -> str:
    kind, content = step[0], step[2:]
    if kind == "f":
        return f".{content}"
    if kind == "k":
        keys = msgspec.json.decode(content, type=dict[str, Any])
        return f"[{','.join(f'{name}={encode_sorted(item).decode()}' for name, item in keys.items())}]"
    return f"[={content}]" if kind == "v" else f"[{content}]"
