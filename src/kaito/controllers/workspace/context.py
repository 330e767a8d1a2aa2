"""What the steps of one reconcile share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kaito.api import labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaito.api.machine import Machine
    from kaito.api.workspace import Workspace
    from kaito.controllers.pipeline import EventKind
    from kaito.controllers.workspace.settings import Settings
    from kaito.models import Catalogue, Preset, Sku
    from kaito.runtime import Client, Lister, Manifest


@dataclass(frozen=True, slots=True)
class Caches:
    """Cached reads of everything the controller watches."""

    workspaces: Lister[Workspace]
    machines: Lister[Machine]
    nodes: Lister[Manifest]
    pods: Lister[Manifest]
    """Only pods with the label ``kaito.sh/workspace``."""
    deployments: Lister[Manifest]
    services: Lister[Manifest]
    revisions: Lister[Manifest]


@dataclass(slots=True)
class WorkspaceContext:
    """One Workspace as it was read, the means to act on it, and what earlier steps have found out."""

    workspace: Workspace
    client: Client
    caches: Caches
    catalogue: Catalogue
    settings: Settings
    emit: Callable[[EventKind, str, str], None]
    """Tell the Workspace's story: type (Normal or Warning), reason, note."""
    revision: int = 0
    """Number of the revision of this specification."""
    nodes: tuple[Manifest, ...] = field(default=())
    """The Nodes that the workload runs on."""
    worker_nodes: tuple[str, ...] | None = None
    """``status.workerNodes`` to be; None keeps what is there."""

    @property
    def name(self) -> str:
        return self.workspace.metadata.name

    @property
    def namespace(self) -> str:
        return self.workspace.metadata.namespace

    @property
    def preset(self) -> Preset | None:
        """The preset that the Workspace serves, if it serves one that exists."""
        inference = self.workspace.inference
        return self.catalogue.preset(inference.preset.name) if inference and inference.preset else None

    @property
    def sku(self) -> Sku | None:
        return self.catalogue.sku(self.settings.cloud, self.workspace.resource.instance_type)


def machine_labels(workspace: Workspace) -> dict[str, str]:
    """The labels by which a Workspace finds its Machines."""
    return {
        labels.WORKSPACE: workspace.metadata.name,
        labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
    }
