"""What the API server fills in, for objects that never passed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaito.api.workspace import DEFAULT_INSTANCE_TYPES, GROUP, VERSION, Workspace


def read_workspace(manifest: Mapping[str, Any]) -> Workspace:
    """The Workspace as the API server would return it in the version that is stored. Raises pydantic's ValidationError."""
    version = str(manifest.get("apiVersion", "")).rpartition("/")[2]
    default = DEFAULT_INSTANCE_TYPES.get(version, "")
    resource = manifest.get("resource")
    if default and isinstance(resource, Mapping) and "instanceType" not in resource:
        manifest = {**manifest, "resource": {**resource, "instanceType": default}}
    return Workspace.model_validate({**manifest, "apiVersion": f"{GROUP}/{VERSION}"})
