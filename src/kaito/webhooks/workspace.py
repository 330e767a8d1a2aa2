"""Judges Workspaces by the rules of :mod:`kaito.api.validation`, with the ConfigMaps that they name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kaito.api.validation import inference_config, training_config, validate, validate_update
from kaito.runtime import CONFIG_MAPS, Invalid, NotFound

if TYPE_CHECKING:
    from kaito.api.validation import Catalogue, FieldError, Policy, Verdict
    from kaito.api.workspace import Workspace
    from kaito.runtime import AdmissionRequest, Client

_REASONS = {
    "Required": "FieldValueRequired",
    "Invalid": "FieldValueInvalid",
    "NotSupported": "FieldValueNotSupported",
    "Forbidden": "FieldValueForbidden",
    "Duplicate": "FieldValueDuplicate",
    "TooMany": "FieldValueTooMany",
}
WARNING_LENGTH = 256
"""Characters of a warning that clients show."""


class WorkspaceValidator:
    def __init__(self, client: Client, catalogue: Catalogue, policy: Policy) -> None:
        self._client = client
        self._catalogue = catalogue
        self._policy = policy

    async def validate_create(self, new: Workspace, request: AdmissionRequest) -> Iterable[str] | None:
        found = await self._configs(new, request.namespace)
        return _answer(new, validate(new, self._catalogue, self._policy, found=found))

    async def validate_update(self, old: Workspace, new: Workspace, request: AdmissionRequest) -> Iterable[str] | None:
        if new.metadata.deletion_timestamp is not None:
            return None
        found = await self._configs(new, request.namespace) if _config_of(new) != _config_of(old) else []
        return _answer(new, validate_update(new, old, self._catalogue, self._policy, found=found))

    async def validate_delete(self, old: Workspace, request: AdmissionRequest) -> Iterable[str] | None:
        return None

    async def _configs(self, obj: Workspace, namespace: str) -> list[FieldError]:
        """What is wrong with the ConfigMap that the Workspace names."""
        name = _config_of(obj)
        if not name:
            return []
        try:
            data = (await self._client.get(CONFIG_MAPS, name, namespace)).get("data") or {}
        except NotFound:
            data = None
        except ValueError:
            return []  # no name of an object: the rules tell of it
        if obj.tuning is not None:
            return training_config(name, data, obj.tuning.method)[1]
        return inference_config(name, data)[1]


def _config_of(obj: Workspace) -> str:
    if obj.tuning is not None:
        return obj.tuning.config or ""
    return (obj.inference.config if obj.inference is not None else None) or ""


def _answer(obj: Workspace, verdict: Verdict) -> list[str]:
    """The warnings. Raises Invalid with all errors, each naming its field."""
    if verdict.errors:
        name = obj.metadata.name or obj.metadata.generate_name or ""
        causes = [
            {"reason": _REASONS[error.kind], "message": error.message, "field": error.path} for error in verdict.errors
        ]
        raise Invalid(
            f'Workspace.kaito.sh "{name}" is invalid: {verdict}',
            details={"name": name, "group": "kaito.sh", "kind": "Workspace", "causes": causes},
        )
    return [warning[:WARNING_LENGTH] for warning in verdict.warnings]
