"""When two objects ask for the same although their JSON differs, and the merge patch where they do not.

The rules are those by which the API server itself would store the same: absent, ``null`` and an empty list are one, as are
absent and empty for the well-known maps, and quantities are numbers. ``{}`` elsewhere means something, as ``emptyDir: {}``
does, and a label ``"1"`` is not a label ``"1000m"``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

_MAPS = frozenset({"annotations", "binaryData", "data", "labels", "matchLabels", "nodeSelector", "stringData"})
"""Fields that hold a map of plain text in every API."""
_QUANTITIES = frozenset({"allocatable", "capacity", "hard", "limits", "overhead", "requests"})
"""Fields that hold a map of quantities."""
_QUANTITY = frozenset({"averageValue", "divisor", "sizeLimit"})

_SYNTAX = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,2}))?\Z", re.ASCII)
_BINARY = {unit: Fraction(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {
    unit: Fraction(10) ** power
    for unit, power in {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}.items()
}


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values mean the same to the API server."""
    return bool(_normal(one, "") == _normal(other, ""))


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: what brings ``before`` to ``after``, empty where they mean the same. Lists are replaced as a whole."""
    return _merge(before, after, "")


def _merge(before: Mapping[str, Any], after: Mapping[str, Any], field: str) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if _normal({name: old}, field) == _normal({name: new}, field):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            patch[name] = _merge(old, new, "" if field in _MAPS else name)
        else:
            patch[name] = new
    return patch


class _Absent:
    """What a field that might as well not be there is worth."""


_ABSENT = _Absent()


def _normal(value: Any, field: str) -> Any:
    if isinstance(value, Mapping):
        if field in _QUANTITIES:
            inner = {name: _number(amount) for name, amount in value.items()}
        else:
            # The names in a map of text are anybody's: they are not fields.
            inner = {name: _normal(item, "" if field in _MAPS else name) for name, item in value.items()}
        present = {name: item for name, item in inner.items() if item is not _ABSENT}
        return present if present or field not in _MAPS | _QUANTITIES else _ABSENT
    if isinstance(value, list | tuple):
        return [_normal(item, "") for item in value] if value else _ABSENT
    if value is None:
        return _ABSENT
    if field in _QUANTITY:
        return _number(value)
    # To Python, True is 1.
    return (bool, value) if isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """The amount that a quantity stands for; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _normal(value, "")
    found = _SYNTAX.match(str(value))
    if found is None:
        return value
    digits, binary, decimal, exponent = found.groups()
    amount = Fraction(digits.rstrip("."))
    if binary:
        return amount * _BINARY[binary]
    if decimal:
        return amount * _DECIMAL[decimal]
    return amount * Fraction(10) ** int(exponent) if exponent else amount
