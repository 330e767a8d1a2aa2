"""The JSON patch (RFC 6902) from an object as it was sent to the object as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


def json_patch(original: Any, known: Any, desired: Any, path: str = "") -> list[dict[str, Any]]:
    """Operations that bring ``original`` to ``desired``.

    ``known`` is ``original`` as the type of ``desired`` reads and writes it. What is in ``original`` and not in ``known``
    is a field that the type does not know: it is left alone, as is a value that the type only writes differently.
    """
    if isinstance(original, Mapping) and isinstance(known, Mapping) and isinstance(desired, Mapping):
        return _objects(original, known, desired, path)
    if same(known, desired):
        return []
    if isinstance(original, list) and isinstance(known, list) and isinstance(desired, list):
        return _arrays(original, known, desired, path)
    return [] if same(original, desired) else [{"op": "replace", "path": path, "value": desired}]


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values, in which ``1``, ``1.0`` and ``true`` are three."""
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _objects(
    original: Mapping[str, Any], known: Mapping[str, Any], desired: Mapping[str, Any], path: str
) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = []
    for name, value in original.items():
        at = f"{path}/{_escape(name)}"
        if name in desired:
            operations += json_patch(value, known.get(name), desired[name], at)
        elif name in known:
            operations.append({"op": "remove", "path": at})
    operations += [
        {"op": "add", "path": f"{path}/{_escape(name)}", "value": value}
        for name, value in desired.items()
        if name not in original
    ]
    return operations


def _arrays(original: Sequence[Any], known: Sequence[Any], desired: Sequence[Any], path: str) -> list[dict[str, Any]]:
    """Elements that changed in place are patched; where elements came, went or moved, the array is replaced, and those that
    did not change keep what the type does not know of them."""
    spare: dict[bytes, list[Any]] = {}
    for before, raw in zip(known, original, strict=False):
        spare.setdefault(msgspec.json.encode(before, order="sorted"), []).append(raw)
    taken = [spare.get(msgspec.json.encode(element, order="sorted"), []) for element in desired]
    in_place = len(original) == len(known) == len(desired) and not any(
        matches and not same(known[index], desired[index]) for index, matches in enumerate(taken)
    )
    if in_place:
        return [
            operation
            for index in range(len(desired))
            for operation in json_patch(original[index], known[index], desired[index], f"{path}/{index}")
        ]
    value = [matches.pop(0) if matches else element for matches, element in zip(taken, desired, strict=True)]
    return [{"op": "replace", "path": path, "value": value}]


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
