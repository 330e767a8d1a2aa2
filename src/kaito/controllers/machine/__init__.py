"""The machine controller: from a claim, which is a Machine or a NodeClaim, to an instance of the cloud's, a Node, and their
end.

``reconciler`` runs the steps ``launch``, ``registration`` and ``initialization``, or those of ``termination``, through the
pipeline that all controllers share. ``claims`` knows the two kinds, ``cloud`` what the provider has said last, ``health`` and
``breaker`` whether a node is well and may be replaced; ``garbage`` looks now and then for what belongs to nothing. Nothing
waits for the cloud: whatever takes time is seen by the next list, and a restart at any point finds its way from what the
cloud and the cluster say.
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from kaito.controllers.machine import heartbeat, nodes
from kaito.controllers.machine.breaker import Breaker
from kaito.controllers.machine.claims import MACHINE, Claim, readable
from kaito.controllers.machine.cloud import Cloud
from kaito.controllers.machine.garbage import GarbageCollector
from kaito.controllers.machine.heartbeat import Heartbeats
from kaito.controllers.machine.metrics import STATE, ClaimCensus, ClaimMetrics, MeteredProvider, state_entered
from kaito.controllers.machine.reconciler import ClaimReconciler, claim_matters
from kaito.controllers.machine.settings import Settings
from kaito.provisioner import load_provider
from kaito.runtime import NODES, Channel, Controller, DropFields, Key, Timer, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kaito.controllers.machine.claims import ClaimKind
    from kaito.provisioner import CloudProvider
    from kaito.runtime import Lister, Manager

NAME = "machine-controller"
DEFAULT_PROVIDER = "aks"
"""The cloud (``KAITO_PROVIDER``): the name of an installed provider."""
CONCURRENCY = 100
"""Claims that are reconciled at a time: most of that is waiting for answers of the cloud."""


def setup(manager: Manager, environ: Mapping[str, str]) -> None:
    """Add the controller to ``manager``, with the provider that ``KAITO_PROVIDER`` names. Raises ConfigError."""
    settings = Settings.from_environ(environ)
    name = environ.get("KAITO_PROVIDER") or DEFAULT_PROVIDER
    add(manager, load_provider(name, environ, manager.fence.check), settings)


def add(manager: Manager, provider: CloudProvider, settings: Settings) -> None:
    """Add the controller to ``manager``, which closes ``provider`` when nothing reconciles any more."""
    metrics = ClaimMetrics(manager.metrics)
    channels = {kind: Channel(_key) for kind in settings.kinds}

    def tell(name: str) -> None:
        for channel in channels.values():
            channel.send(name)

    cloud = Cloud(
        MeteredProvider(provider, metrics, manager.fence),
        tell,
        interval=settings.poll_interval,
        idle_interval=settings.garbage_interval,
    )
    cache, client, clock = manager.cache, manager.client, manager.clock
    cache.transform(NODES, DropFields("status.images"))
    cache.add_index(NODES, nodes.POOL_INDEX, nodes.pools_of)
    node_lister = cache.lister(NODES)
    listers: dict[ClaimKind, Lister[Any]] = {}
    breaker = Breaker(lambda: _claims(listers), node_lister, settings.repair_share)
    manager.metrics.register(ClaimCensus(listers, manager.clock.now))
    recorder = manager.recorder(NAME)
    manager.add_context("cloud provider", aclosing(provider))
    manager.add_runnable("list of instances", cloud.run)

    def serve(kind: ClaimKind) -> None:
        cache.add_index(kind.resource, STATE, state_entered(kind))
        listers[kind] = lister = cache.lister(kind.resource)
        reconciler = ClaimReconciler(
            kind, client, lister, node_lister, cloud, breaker, recorder, clock, settings, metrics
        )
        manager.add(
            Controller(
                kind.name,
                reconciler,
                primary=kind.resource,
                watches=(Watch(NODES, nodes.claim_of, nodes.matters),),
                sources=(channels[kind],),
                predicate=claim_matters,
                max_concurrent=CONCURRENCY,
            )
        )
        if kind is MACHINE:
            beats = Heartbeats(client, MACHINE, lister, clock)
            manager.add(Controller("machine-heartbeat", beats, primary=None, sources=(Timer(heartbeat.INTERVAL),)))

    for kind in settings.kinds:
        manager.when_served(kind.resource, partial(serve, kind))
    collector = GarbageCollector(client, listers, node_lister, cloud, recorder, clock, settings, metrics)
    manager.add(Controller("machine-garbage", collector, primary=None, sources=(Timer(settings.garbage_interval),)))


def _key(name: str) -> Iterable[Key]:
    return (Key("", name),)


def _claims(listers: Mapping[ClaimKind, Lister[Any]]) -> Iterable[Claim]:
    for kind, lister in listers.items():
        yield from readable(kind, lister.stored_list())
