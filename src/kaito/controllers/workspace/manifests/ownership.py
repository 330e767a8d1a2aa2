"""Who owns which field: compare what kaito wants with what is there.

kaito owns the fields that it writes and nothing else. What the API server defaulted, or someone added beside them, is
not looked at; an owned field that differs is put back. Lists belong to their writer as a whole, but what was defaulted
within their items does not count as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    if isinstance(desired, Mapping):
        return {key: present(value) for key, value in desired.items() if value is not None}
    if isinstance(desired, list):
        return [present(item) for item in desired]
    return desired


def difference(desired: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that brings the owned fields of ``live`` to ``desired``; empty where they agree."""
    patch: dict[str, Any] = {}
    for key, want in desired.items():
        have = live.get(key)
        if want is None:
            if have or have is False or have == 0:
                patch[key] = None
        elif isinstance(want, Mapping) and isinstance(have, Mapping):
            if changed := difference(want, have):
                patch[key] = changed
        elif not _covers(have, want):
            patch[key] = present(want)
    return patch


def _covers(have: Any, want: Any) -> bool:
    if isinstance(want, Mapping):
        return isinstance(have, Mapping) and not difference(want, have)
    if isinstance(want, list):
        return (
            isinstance(have, list)
            and len(have) == len(want)
            and all(_covers(item, wanted) for item, wanted in zip(have, want, strict=True))
        )
    return bool(have == want)
