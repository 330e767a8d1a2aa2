"""ControllerRevisions: the history of a Workspace's specification."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from kaito.api import labels
from kaito.controllers.workspace.manifests.ownership import controller_reference

if TYPE_CHECKING:
    from kaito.api.workspace import Workspace
    from kaito.runtime import Manifest

HISTORY_LIMIT = 10


def specification(workspace: Workspace) -> dict[str, Any]:
    """The parts of a Workspace that make a revision; absent ones are None."""
    manifest = workspace.to_manifest()
    return {part: manifest.get(part) for part in ("inference", "resource", "tuning")}


def specification_hash(workspace: Workspace) -> str:
    """sha256, in hex, over resource, inference and tuning as JSON with sorted keys, each followed by a newline."""
    parts = specification(workspace)
    digest = sha256()
    for part in ("resource", "inference", "tuning"):
        digest.update(msgspec.json.encode(parts[part], order="deterministic") + b"\n")
    return digest.hexdigest()


def revision_name(workspace: Workspace, hash_: str, length: int = 5) -> str:
    """``<workspace>-<beginning of the hash>``; a longer beginning tells two hashes apart that share a short one."""
    return f"{workspace.metadata.name}-{hash_[:length]}"


def build_revision(workspace: Workspace, name: str, hash_: str, number: int) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": workspace.metadata.namespace,
            "labels": {labels.REVISION_OWNER: workspace.metadata.name},
            "annotations": {labels.WORKSPACE_HASH: hash_},
            "ownerReferences": [controller_reference(workspace)],
        },
        "revision": number,
        "data": specification(workspace),
    }
