"""What a Workspace must satisfy, said in Python: for admission, for the controller, and for tools without a cluster.

The CustomResourceDefinition enforces what a schema can express; these functions say the same and add what needs the
preset catalogue. All errors of an object are found at once. The same rules hold on create and on update, but an update
is not blamed for what was wrong before it, and an object that is being deleted is not checked at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.api.validation.changes import change_errors
from kaito.api.validation.configmaps import inference_config, training_config
from kaito.api.validation.facts import AZURE_PREFIXES, Catalogue, FieldError, Kind, Policy
from kaito.api.validation.resource import resource_warnings
from kaito.api.validation.spec import spec_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.workspace import Workspace

__all__ = [
    "AZURE_PREFIXES",
    "Catalogue",
    "FieldError",
    "Kind",
    "Policy",
    "Verdict",
    "inference_config",
    "training_config",
    "validate",
    "validate_update",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    errors: tuple[FieldError, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


def validate(obj: Workspace, catalogue: Catalogue, policy: Policy, *, found: Iterable[FieldError] = ()) -> Verdict:
    """Everything that is wrong with a Workspace as it stands; ``found`` is what was found in objects that it names.

    What the annotation ``kaito.sh/bypass-resource-checks`` lets pass is a warning.
    """
    bypass = obj.metadata.annotation(labels.BYPASS_RESOURCE_CHECKS) is not None
    errors = [*spec_errors(obj, catalogue, policy), *catalogue.objections(obj, policy), *found]
    passed = [error for error in errors if bypass and error.bypassable]
    return Verdict(
        tuple(error for error in errors if error not in passed),
        (*map(str, passed), *resource_warnings(obj, policy)),
    )


def validate_update(
    new: Workspace,
    old: Workspace,
    catalogue: Catalogue,
    policy: Policy,
    *,
    found: Iterable[FieldError] = (),
) -> Verdict:
    """Everything that is wrong with changing ``old`` into ``new``; ``found`` is what was found in objects that ``new``
    names, as far as it names others than ``old``."""
    if new.metadata.deletion_timestamp is not None:
        return Verdict()
    before = set(validate(old, catalogue, policy).errors)
    after = validate(new, catalogue, policy, found=found)
    errors = [*change_errors(new, old), *(error for error in after.errors if error not in before)]
    return Verdict(tuple(errors), after.warnings)
