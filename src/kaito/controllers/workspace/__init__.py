"""The Workspace controller: from a Workspace to nodes, a running model, and a status that says how it goes.

``reconciler`` runs the steps (``validation``, ``revision``, ``resource``, then ``inference`` or ``tuning``) through the
pipeline that all controllers share; ``manifests`` builds what they write; ``status`` turns what they found into conditions
and Events. Nodes: ``facts`` says what one is, ``claims`` who holds it, ``selection`` which to use, ``holding`` takes and
releases them, ``purchase`` asks for new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api.resources import WORKSPACES
from kaito.controllers.workspace import watches
from kaito.controllers.workspace.claims import CLAIM_INDEX
from kaito.controllers.workspace.configs import ConfigMaps
from kaito.controllers.workspace.context import Caches
from kaito.controllers.workspace.kinds import Orders
from kaito.controllers.workspace.metrics import PHASE, WorkspaceCensus, WorkspaceMetrics, phase_entered
from kaito.controllers.workspace.orders import SOURCES
from kaito.controllers.workspace.reconciler import WorkspaceReconciler
from kaito.controllers.workspace.settings import Settings
from kaito.controllers.workspace.upgrades import Upgrades
from kaito.runtime import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Controller,
    DropFields,
    Watch,
    metadata_resource,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.runtime import Manager

NAME = "workspace-controller"


def setup(manager: Manager, environ: Mapping[str, str]) -> None:
    """Add the controller to ``manager``. Raises ConfigError for a setting that cannot work."""
    settings = Settings.from_environ(environ)
    cache, source = manager.cache, SOURCES[settings.source]
    config_maps = metadata_resource(CONFIG_MAPS)
    cache.transform(NODES, DropFields("status.images"))
    for name, function in watches.INDEXES.items():
        cache.add_index(WORKSPACES, name, function)
    cache.add_index(WORKSPACES, PHASE, phase_entered)
    cache.add_index(NODES, CLAIM_INDEX, watches.claims_on)
    for resource in (DEPLOYMENTS, STATEFUL_SETS):
        cache.add_index(resource, watches.UPGRADING, watches.upgrading)
    workspaces, orders = cache.lister(WORKSPACES), Orders()
    caches = Caches(
        workspaces=workspaces,
        orders=orders,
        nodes=cache.lister(NODES),
        pods=cache.lister(PODS, labels=watches.WORKSPACE_PODS),
        deployments=cache.lister(DEPLOYMENTS),
        stateful_sets=cache.lister(STATEFUL_SETS),
        jobs=cache.lister(JOBS),
        services=cache.lister(SERVICES),
        revisions=cache.lister(CONTROLLER_REVISIONS),
    )
    upgrades = Upgrades(settings.upgrades)
    metrics = WorkspaceMetrics(manager.metrics)
    catalogue = settings.catalogue()
    sizes = [sku.name for sku in catalogue.skus(settings.cloud)]
    manager.metrics.register(WorkspaceCensus(caches, upgrades, sizes, manager.clock.now))
    reconciler = WorkspaceReconciler(
        manager.client,
        caches,
        ConfigMaps(manager.client, cache.lister(config_maps)),
        manager.recorder(NAME),
        manager.clock,
        catalogue=catalogue,
        settings=settings,
        metrics=metrics,
        upgrades=upgrades,
    )
    named = watches.workspace_of_name(workspaces)
    if source is not None:
        orders.follow(manager, source)
    manager.add(
        Controller(
            "workspace",
            reconciler,
            primary=WORKSPACES,
            owns=(CONTROLLER_REVISIONS,),
            watches=(
                *(Watch(resource, named) for resource in (DEPLOYMENTS, STATEFUL_SETS, JOBS, SERVICES)),
                Watch(NODES, watches.workspaces_of_node(workspaces), watches.node_matters),
                Watch(PODS, watches.workspace_of_pod, labels=watches.WORKSPACE_PODS),
                Watch(config_maps, watches.workspaces_of_config(workspaces)),
            ),
            sources=(orders.arrivals,),
            max_concurrent=16,
        )
    )
