"""Values and their schema's topology: which fields a value has, what two of them differ in, and how they go together.

Maps are granular unless they are declared atomic, lists are atomic unless they are declared a map or a set, and what has no
schema is read by its form: objects granular, lists atomic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from kaito.devcluster.apiserver.managedfields import fields
from kaito.devcluster.apiserver.managedfields.fields import FieldSet, Path
from kaito.devcluster.apiserver.schema import Node
from kaito.devcluster.apiserver.schema.node import ANY

Json = Any
_SCALARS: Final = frozenset({"quantity", "int-or-string"})
_KEY_DEFAULTS: Final = {"protocol": "TCP"}
"""Of the keys of built-in lists that may be left out: ports."""


class Untyped(ValueError):
    """A value that its schema's topology cannot take. ``path`` is its place."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{fields.shown(path)}: {why}")


class Child(NamedTuple):
    step: str
    node: Node
    value: Json
    named: bool
    """It is a field of a struct, which is there whether or not anybody owns it by itself."""


def children(node: Node, value: Json, path: Path = ()) -> list[Child] | None:
    """What a granular value is made of; None for a value that has one owner as a whole. Raises Untyped."""
    if isinstance(value, dict):
        if node.type in _SCALARS or node.map_type == "atomic":
            return None
        return [_member(node, name, item) for name, item in value.items()]
    if isinstance(value, list) and node.list_type in ("map", "set"):
        items = node.items or ANY
        step = _by_value if node.list_type == "set" else _by_key
        return [Child(step(node, item, path), items, item, named=False) for item in value]
    return None


def _member(node: Node, name: str, item: Json) -> Child:
    known = node.properties.get(name)
    return Child(fields.field(name), known or node.additional or ANY, item, known is not None)


def _by_value(node: Node, item: Json, path: Path) -> str:
    return fields.value(item)


def _by_key(node: Node, item: Json, path: Path) -> str:
    if not isinstance(item, dict):
        raise Untyped(path, f"associative list without keys has an element that's a {type(item).__name__}")
    keys = {name: item[name] if name in item else _default_of(node, name) for name in node.list_map_keys}
    missing = [name for name, held in keys.items() if held is None]
    if missing:
        raise Untyped(
            path,
            f'associative list with keys has an element that omits key field "{missing[0]}" '
            "(and doesn't have default value)",
        )
    return fields.key(keys)


def _default_of(node: Node, name: str) -> Json:
    known = node.items.properties.get(name) if node.items is not None else None
    declared = known.raw.get("default") if known is not None else None
    return _KEY_DEFAULTS.get(name) if declared is None and node.builtin else declared


def fields_of(node: Node, value: Json) -> FieldSet:
    """The fields that a value sets. Raises Untyped, also for items of a list that have the same keys."""
    return frozenset(_fields(node, value, (), unique=True))


def _fields(node: Node, value: Json, path: Path, *, unique: bool = False) -> Iterator[Path]:
    found = children(node, value, path)
    if found is None:
        yield path
        return
    seen = set()
    for child in found:
        if unique and child.step in seen:
            raise Untyped(path, f"duplicate entries for key {fields.shown((child.step,))}")
        seen.add(child.step)
        yield from _with_itself(child, path, unique=unique)


def _with_itself(child: Child, path: Path, *, unique: bool = False) -> Iterator[Path]:
    here = (*path, child.step)
    yield from _fields(child.node, child.value, here, unique=unique)
    if not child.named or child.value == {}:
        yield here


@dataclass(slots=True)
class Difference:
    """``changed``: what is new or has another value."""

    changed: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)


def compare(node: Node, old: Json, new: Json) -> Difference:
    difference = Difference()
    _compare(node, old, new, (), difference)
    return difference


def _compare(node: Node, old: Json, new: Json, path: Path, difference: Difference) -> None:
    if old is new or (old == new and type(old) is type(new)):
        return
    before, after = children(node, old, path), children(node, new, path)
    if before is None or after is None or type(old) is not type(new):
        difference.changed.add(path)
        if before is not None:
            difference.removed.update(_fields(node, old, path))
        if after is not None:
            difference.changed.update(_fields(node, new, path))
        return
    held = {child.step: child for child in before}
    for child in after:
        was = held.pop(child.step, None)
        if was is None:
            difference.changed.update(_with_itself(child, path))
            if child.node.additional is not None:
                difference.changed.add((*path, child.step))
        else:
            _compare(child.node, was.value, child.value, (*path, child.step), difference)
    for gone in held.values():
        difference.removed.add((*path, gone.step))
        difference.removed.update(_with_itself(gone, path))


def merge(node: Node, live: Json, config: Json, path: Path = ()) -> Json:
    """``live`` with what ``config`` says. Items of lists are in the order of ``config``, others where they stood among them."""
    before, wanted = children(node, live, path), children(node, config, path)
    if before is None or wanted is None or type(live) is not type(config):
        return config
    held = {child.step: child for child in before}
    if isinstance(config, dict):
        return live | {
            name: merge(child.node, live[name], child.value, (*path, child.step)) if name in live else child.value
            for name, child in zip(config, wanted, strict=True)
        }
    merged = {
        child.step: merge(child.node, held[child.step].value, child.value, (*path, child.step))
        if child.step in held
        else child.value
        for child in wanted
    }
    return _in_order(before, merged)


def _in_order(before: list[Child], merged: dict[str, Json]) -> list[Json]:
    """``merged`` in its order, and each other item of ``before`` in front of the first of these that stood behind it."""
    result: list[Json] = []
    waiting = list(merged)
    others: list[Json] = []
    for child in before:
        if child.step not in merged:
            others.append(child.value)
        elif child.step in waiting:
            result += others
            others = []
            place = waiting.index(child.step) + 1
            result += [merged[step] for step in waiting[:place]]
            waiting = waiting[place:]
    return [*result, *others, *(merged[step] for step in waiting)]


def prune(node: Node, value: Json, last: FieldSet, owned: FieldSet) -> Json:
    """``value`` without the fields of ``last`` that are not in ``owned``, and without what that has emptied."""
    return _Pruning(last, fields.prefixes(last), owned, fields.prefixes(owned)).prune(node, value, ())


@dataclass(frozen=True, slots=True)
class _Pruning:
    last: FieldSet
    on_the_way: FieldSet
    owned: FieldSet
    around_owned: FieldSet

    def prune(self, node: Node, value: Json, path: Path) -> Json:
        found = children(node, value, path)
        if found is None:
            return value
        kept = [(child, self._left(child, (*path, child.step))) for child in found]
        if isinstance(value, dict):
            return {name: left[0] for name, (_, left) in zip(value, kept, strict=True) if left}
        return [left[0] for _, left in kept if left]

    def _left(self, child: Child, here: Path) -> tuple[Json] | None:
        """What is left of a child, if anything."""
        stays = here in self.owned or (child.named and here in self.around_owned)
        if here in self.last and not stays:
            return None
        if here not in self.on_the_way:
            return (child.value,)
        left = self.prune(child.node, child.value, here)
        emptied = child.value and not left and isinstance(left, dict | list)
        return None if emptied and not stays else (left,)
