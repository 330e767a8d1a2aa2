"""What of a Workspace cannot be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api.validation.facts import FieldError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kaito.api.workspace import InferenceSpec, TuningSpec, Workspace


def change_errors(new: Workspace, old: Workspace) -> Iterator[FieldError]:
    """Changes that are not possible; the field's absence before and after is no change."""
    for path, present in (("inference", _inference_of), ("tuning", _tuning_of)):
        if (present(new) is None) != (present(old) is None):
            yield FieldError(path, f"{path} cannot be added or removed; {_ANEW}", "Forbidden")
    for path, value in _IMMUTABLE.items():
        if value(new) != value(old):
            yield FieldError(path, f"cannot be changed; {_ANEW}", "Forbidden")


_ANEW = "make a new Workspace instead"


def _inference_of(obj: Workspace) -> InferenceSpec | None:
    return obj.inference


def _tuning_of(obj: Workspace) -> TuningSpec | None:
    return obj.tuning


_IMMUTABLE: Mapping[str, Callable[[Workspace], Any]] = {
    "resource.count": lambda obj: obj.resource.count,
    "resource.instanceType": lambda obj: obj.resource.instance_type.casefold(),
    "resource.labelSelector": lambda obj: obj.resource.label_selector and obj.resource.label_selector.as_labels(),
    "inference.preset": lambda obj: obj.inference and obj.inference.preset,
    "tuning.preset": lambda obj: obj.tuning and obj.tuning.preset,
    "tuning.method": lambda obj: obj.tuning and obj.tuning.method.lower(),
    "tuning.input.name": lambda obj: obj.tuning and obj.tuning.input and obj.tuning.input.name,
}
