"""What the steps of one reconcile share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.controllers.workspace.sizing import Sizing

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaito.api.workspace import Workspace
    from kaito.controllers.pipeline import EventKind
    from kaito.controllers.workspace.kinds import Orders
    from kaito.controllers.workspace.upgrades import Upgrades
    from kaito.runtime import Client, Clock, Lister, Manifest


@dataclass(frozen=True, slots=True)
class Caches:
    """Cached reads of everything the controller watches."""

    workspaces: Lister[Workspace]
    orders: Orders
    """Machines or NodeClaims."""
    nodes: Lister[Manifest]
    pods: Lister[Manifest]
    """Only pods with the label ``kaito.sh/workspace``."""
    deployments: Lister[Manifest]
    stateful_sets: Lister[Manifest]
    jobs: Lister[Manifest]
    services: Lister[Manifest]
    revisions: Lister[Manifest]


@dataclass(slots=True, kw_only=True)
class WorkspaceContext(Sizing):
    """One Workspace as it was read, the means to act on it, and what earlier steps have found out."""

    client: Client
    caches: Caches
    clock: Clock
    upgrades: Upgrades
    emit: Callable[[EventKind, str, str], None]
    """Tell the Workspace's story: type (Normal or Warning), reason, note."""
    worker_nodes: tuple[str, ...] | None = None
    """``status.workerNodes`` to be; None keeps what is there."""
    outdated: bool = False
    """Whether the workload is not what this operator would make today."""
