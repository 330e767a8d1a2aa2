"""The Machine controller: from a Machine to an instance of the cloud's, a Node, and their end.

``reconciler`` runs the steps ``launch``, ``registration`` and ``initialization`` through ``pipeline``, or ``termination``;
``garbage`` looks now and then for what no Machine knows of. Nothing waits for the cloud: whatever takes time is looked at
again, and a restart at any point finds its way from what the cloud and the cluster say.

Pods are not drained before their node goes: it is cordoned, and the cloud ends it with what runs on it.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from kaito.api.resources import MACHINES
from kaito.controllers.machine import nodes
from kaito.controllers.machine.context import Caches
from kaito.controllers.machine.garbage import GarbageCollector
from kaito.controllers.machine.metrics import MachineMetrics, MeteredProvider
from kaito.controllers.machine.reconciler import MachineReconciler, machine_matters
from kaito.controllers.machine.settings import Settings
from kaito.provisioner import load_provider
from kaito.runtime import NODES, Controller, Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.provisioner import CloudProvider
    from kaito.runtime import Manager

NAME = "machine-controller"
DEFAULT_PROVIDER = "aks"


def setup(manager: Manager, environ: Mapping[str, str]) -> None:
    """Add the controller to ``manager``, with the provider that ``KAITO_PROVIDER`` names. Raises ConfigError."""
    settings = Settings.from_environ(environ)
    add(manager, load_provider(environ.get("KAITO_PROVIDER") or DEFAULT_PROVIDER, environ), settings)


def add(manager: Manager, provider: CloudProvider, settings: Settings) -> None:
    """Add the controller to ``manager``, which closes ``provider`` when it stops."""
    metrics = MachineMetrics(manager.metrics)
    metered = MeteredProvider(provider, metrics, manager.fence)
    cache = manager.cache
    cache.add_index(NODES, nodes.POOL_INDEX, nodes.pools_of)
    caches = Caches(machines=cache.lister(MACHINES), nodes=cache.lister(NODES))
    recorder = manager.recorder(NAME)
    manager.add_context("machine cloud provider", aclosing(metered))
    manager.add(
        Controller(
            "machine",
            MachineReconciler(manager.client, caches, metered, recorder, manager.clock, settings, metrics),
            primary=MACHINES,
            watches=(Watch(NODES, nodes.machine_of, nodes.matters),),
            predicate=machine_matters,
            max_concurrent=16,
        )
    )
    collector = GarbageCollector(manager.client, caches.nodes, metered, recorder, manager.clock, settings, metrics)
    manager.add_runnable("machine garbage collection", collector.run)
