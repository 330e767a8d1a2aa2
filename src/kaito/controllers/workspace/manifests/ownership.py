"""Who owns which field: compare what kaito wants with what is there.

kaito owns the fields that it writes and nothing else. What the API server defaulted, or someone added beside them, is
not looked at; an owned field that differs is put back. Lists belong to their writer as a whole, but what was defaulted
within their items does not count as a difference, nor does another way of writing the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kaito.api.quantity import Quantity

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace


def controller_reference(workspace: Workspace) -> dict[str, Any]:
    """The owner reference by which garbage collection takes an object with its Workspace."""
    return {
        "apiVersion": workspace.api_version,
        "kind": workspace.kind,
        "name": workspace.metadata.name,
        "uid": workspace.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference of the object's controller, if it has one."""
    references: Sequence[Mapping[str, Any]] = manifest["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def present(desired: Any) -> Any:
    """``desired`` without the fields that must be absent."""
    if isinstance(desired, dict):
        return {key: present(value) for key, value in desired.items() if value is not None}
    if isinstance(desired, list | tuple):
        return [present(item) for item in desired]
    return desired


def difference(
    desired: Mapping[str, Any], live: Mapping[str, Any], before: Mapping[str, Any] | None = None, *, field: str = ""
) -> dict[str, Any]:
    """The merge patch that brings the owned fields of ``live`` to ``desired``; empty where they agree.

    ``before`` is what kaito owned until now: a field of it that ``desired`` lacks is removed. ``field`` is the name under
    which the two stand in an object of Kubernetes' own kinds.
    """
    patch: dict[str, Any] = {}
    for key, want in desired.items():
        have, old = live.get(key), before.get(key) if before else None
        if type(want) in _SCALARS and type(have) is type(want) and have == want:
            continue
        if want is None:
            if not _absent(have):
                patch[key] = None
        elif isinstance(want, dict) and isinstance(have, dict):
            if changed := difference(want, have, old if isinstance(old, dict) else None, field=key):
                patch[key] = changed
        elif not _covers(have, want, field, key) or _dropped(old, want, have):
            patch[key] = present(want)
    for key in before or ():
        if key not in desired and not _absent(live.get(key)):
            patch[key] = None
    return patch


def differing(desired: Any, live: Any, path: str = "", field: str = "") -> Iterator[str]:
    """Paths of the owned fields in which ``live`` is not as ``desired``."""
    if isinstance(desired, dict) and isinstance(live, dict):
        for key, want in desired.items():
            where = f"{path}.{key}" if path else str(key)
            if isinstance(want, dict | list):
                yield from differing(want, live.get(key), where, key)
            elif not _covers(live.get(key), want, field, key):
                yield where
    elif isinstance(desired, list) and isinstance(live, list) and len(desired) == len(live):
        for index, (want, have) in enumerate(zip(desired, live, strict=True)):
            yield from differing(want, have, f"{path}[{index}]")
    elif not _covers(live, desired):
        yield path


def _covers(have: Any, want: Any, field: str = "", key: str = "") -> bool:
    if type(want) in _SCALARS and type(have) is type(want) and have == want:
        return True
    if _absent(want):
        return _absent(have)
    if isinstance(want, dict):
        return isinstance(have, dict) and not difference(want, have, field=key)
    if isinstance(want, list):
        return (
            isinstance(have, list)
            and len(have) == len(want)
            and all(_covers(item, wanted) for item, wanted in zip(have, want, strict=True))
        )
    if isinstance(have, bool) is not isinstance(want, bool):
        return False
    return bool(have == want) or ((field in _AMOUNTS or key in _AMOUNT) and _same_amount(have, want))


_SCALARS = frozenset({str, int, bool, float})
_AMOUNTS = frozenset({"limits", "requests"})
"""Maps of quantities in a pod."""
_AMOUNT = frozenset({"divisor", "sizeLimit", "storage"})
"""Quantities in a pod."""


def _dropped(old: Any, want: Any, have: Any) -> bool:
    """Whether an item of a list still has a field that kaito wrote into it and does not want any more."""
    if not all(isinstance(value, list) for value in (old, want, have)) or len(have) != len(want):
        return False
    return any(
        isinstance(one, dict)
        and isinstance(wanted, dict)
        and isinstance(live, dict)
        and bool(difference(wanted, live, one))
        for one, wanted, live in zip(old, want, have, strict=False)
    )


def _absent(value: Any) -> bool:
    return value is None or value == [] or value == {}


def _same_amount(one: Any, other: Any) -> bool:
    """Whether both are quantities of the same amount, such as ``0.5`` and ``500m``."""
    if not all(isinstance(value, str | int) for value in (one, other)):
        return False
    try:
        return Quantity.parse(one) == Quantity.parse(other)
    except ValueError:
        return False
