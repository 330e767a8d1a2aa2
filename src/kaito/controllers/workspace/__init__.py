"""The Workspace controller: from a Workspace to nodes, a running model, and a status that says how it goes.

``reconciler`` runs the steps (``validation``, ``revision``, ``resource``, ``inference`` or ``tuning``) through
``pipeline``; ``manifests`` builds what they write; ``status`` turns what they found into conditions and Events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api.resources import MACHINES, WORKSPACES
from kaito.controllers.workspace import watches
from kaito.controllers.workspace.context import Caches
from kaito.controllers.workspace.reconciler import WorkspaceReconciler
from kaito.controllers.workspace.settings import Settings
from kaito.models import Catalogue
from kaito.runtime import CONTROLLER_REVISIONS, DEPLOYMENTS, NODES, PODS, SERVICES, Controller, Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.runtime import Manager

NAME = "workspace-controller"


def setup(manager: Manager, environ: Mapping[str, str]) -> None:
    """Add the controller to ``manager``. Raises ConfigError for a setting that cannot work."""
    cache = manager.cache
    workspaces = cache.lister(WORKSPACES)
    reconciler = WorkspaceReconciler(
        manager.client,
        Caches(
            workspaces=workspaces,
            machines=cache.lister(MACHINES),
            nodes=cache.lister(NODES),
            pods=cache.lister(PODS, labels=watches.WORKSPACE_PODS),
            deployments=cache.lister(DEPLOYMENTS),
            services=cache.lister(SERVICES),
            revisions=cache.lister(CONTROLLER_REVISIONS),
        ),
        manager.recorder(NAME),
        manager.clock,
        catalogue=Catalogue.default(),
        settings=Settings.from_environ(environ),
    )
    manager.add(
        Controller(
            "workspace",
            reconciler,
            primary=WORKSPACES,
            owns=(DEPLOYMENTS, SERVICES, CONTROLLER_REVISIONS),
            watches=(
                Watch(MACHINES, watches.workspace_of_machine),
                Watch(NODES, watches.workspaces_of_node(workspaces), watches.node_matters),
                Watch(PODS, watches.workspace_of_pod, labels=watches.WORKSPACE_PODS),
            ),
            max_concurrent=16,
        )
    )
