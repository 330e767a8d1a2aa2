"""What the machine controller counts, under the names of the field.

Counters carry the suffix ``_total``, which the exposition format demands of them.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from prometheus_client import Counter, Histogram, Summary
from prometheus_client.core import GaugeMetricFamily

from kaito.api import labels
from kaito.controllers import census
from kaito.controllers.machine.claims import INITIALIZED, KINDS, LAUNCHED, MACHINE, READY, REGISTERED, Claim
from kaito.provisioner import InstanceNotFound, ProviderError
from kaito.runtime import CacheError, format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from prometheus_client import CollectorRegistry

    from kaito.controllers.machine.claims import ClaimKind
    from kaito.provisioner import CloudProvider, Instance, InstanceSpec, InstanceType
    from kaito.runtime import Fence, Lister, Stored

CONTROLLER = "machine"
CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds; a call is cut off after 60."""
TERMINATION_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
"""Seconds."""

PROVISIONED = "provisioned"
"""Why a claim was made, as far as is known here."""
DELETED, GARBAGE_COLLECTED, REGISTRATION, UNHEALTHY = "deleted", "garbage_collected", "liveness", "unhealthy"
"""Why a claim, or the instance of one, was ended."""


@final
class ClaimMetrics:
    """Machines are counted by provisioner, NodeClaims by node pool."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *label_names: str) -> Counter:
            return Counter(f"karpenter_{name}", text, label_names, registry=registry)

        self._machines_created = counter("machines_created", "Machines taken on", "reason", "provisioner")
        self._claims_created = counter(
            "nodeclaims_created", "NodeClaims taken on", "reason", "nodepool", "min_values_relaxed"
        )
        self._machines_terminated = counter(
            "machines_terminated", "Machines and instances ended", "reason", "provisioner"
        )
        self._claims_terminated = counter("nodeclaims_terminated", "NodeClaims ended", "nodepool", "capacity_type")
        self._claims_disrupted = counter(
            "nodeclaims_disrupted", "NodeClaims whose instance was replaced", "reason", "nodepool", "capacity_type"
        )
        self._became = {
            LAUNCHED: counter("machines_launched", "Machines whose instance runs", "provisioner"),
            REGISTERED: counter("machines_registered", "Machines whose Node has joined", "provisioner"),
            INITIALIZED: counter("machines_initialized", "Machines whose Node is ready", "provisioner"),
        }
        self._nodes_created = counter("nodes_created", "Nodes that have joined for a claim", "nodepool")
        self._nodes_terminated = counter("nodes_terminated", "Nodes that have gone with their claim", "nodepool")
        self._node_termination = {
            True: Summary(
                "karpenter_nodes_termination_time_seconds",
                "From the request to delete a Machine with a Node until nothing is left of both",
                ("provisioner",),
                registry=registry,
            ),
            False: Summary(
                "karpenter_nodes_termination_duration_seconds",
                "From the request to delete a NodeClaim with a Node until nothing is left of both",
                ("nodepool",),
                registry=registry,
            ),
        }
        self._termination = Histogram(
            "karpenter_nodeclaims_termination_duration_seconds",
            "From the request to delete a NodeClaim until nothing is left of it",
            ("nodepool",),
            buckets=TERMINATION_BUCKETS,
            registry=registry,
        )
        self.call_duration = Histogram(
            "karpenter_cloudprovider_duration_seconds",
            "Length of a call to the cloud",
            ("controller", "method", "provider"),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.call_errors = counter(
            "cloudprovider_errors", "Calls to the cloud that failed", "controller", "method", "provider", "error"
        )

    def created(self, claim: Claim) -> None:
        if claim.kind is MACHINE:
            self._machines_created.labels(PROVISIONED, _pool(claim)).inc()
        else:
            self._claims_created.labels(PROVISIONED, _pool(claim), "false").inc()

    def became(self, claim: Claim, condition: str) -> None:
        if condition == REGISTERED:
            self._nodes_created.labels(_pool(claim)).inc()
        if claim.kind is MACHINE and condition != READY:
            self._became[condition].labels(_pool(claim)).inc()

    def disrupted(self, claim: Claim, reason: str) -> None:
        """Its instance is replaced, or the claim deleted for want of one."""
        if claim.kind is MACHINE:
            self._machines_terminated.labels(reason, _pool(claim)).inc()
        else:
            self._claims_disrupted.labels(reason, _pool(claim), _capacity_type(claim)).inc()

    def terminated(self, claim: Claim, reason: str, seconds: float) -> None:
        """It is gone, ``seconds`` after that was asked for."""
        if claim.kind is MACHINE:
            self._machines_terminated.labels(reason, _pool(claim)).inc()
        else:
            self._claims_terminated.labels(_pool(claim), _capacity_type(claim)).inc()
            self._termination.labels(_pool(claim)).observe(seconds)
        if claim.node_name:
            self._nodes_terminated.labels(_pool(claim)).inc()
            self._node_termination[claim.kind is MACHINE].labels(_pool(claim)).observe(seconds)


STATES = ("launching", "registering", "initializing", "ready", "terminating")


STATE = "state"
"""Index of claims by ``state_entered``, so that counting them decodes none."""


@final
class ClaimCensus:
    """How many claims are in which state and since when, taken from the caches whenever they are asked for."""

    def __init__(self, listers: Mapping[ClaimKind, Lister[Any]], now: Callable[[], datetime]) -> None:
        """``listers`` have the index ``STATE``; one may come to be there later."""
        self._listers = listers
        self._now = now

    def describe(self) -> list[Any]:
        return []  # taken at scrape time: there may be no cache yet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counted = GaugeMetricFamily("kaito_machines", "Machines and NodeClaims by state.", labels=["kind", "state"])
        oldest = GaugeMetricFamily(
            "kaito_machine_oldest_seconds",
            "Seconds that the Machine or NodeClaim has been in a state which has been there longest; 0 without one.",
            labels=["kind", "state"],
        )
        now = self._now()
        for kind in KINDS.values():
            try:
                entered = self._listers[kind].tally(STATE) if kind in self._listers else {}
            except CacheError:
                return
            for state, found in census.count(entered, STATES, now).items():
                counted.add_metric([kind.name, state], found.number)
                oldest.add_metric([kind.name, state], found.oldest)
        yield from (counted, oldest)


def state_entered(kind: ClaimKind) -> Callable[[Stored[Any]], Iterable[str]]:
    """For the index ``STATE``: where a claim of ours is on its way, and since when."""

    def value(stored: Stored[Any]) -> Iterable[str]:
        if not kind.is_ours(stored):
            return ()
        state, since = state_of(Claim(kind, stored.peek()))
        return (census.entry(state, since),)

    return value


def state_of(claim: Claim) -> tuple[str, str]:
    """Where a claim is on its way, and since when, as RFC 3339 text."""
    since = claim.metadata.creation_timestamp or ""
    if claim.metadata.deletion_timestamp is not None:
        return "terminating", claim.metadata.deletion_timestamp
    for condition, state in ((LAUNCHED, "launching"), (REGISTERED, "registering"), (INITIALIZED, "initializing")):
        if not claim.holds(condition):
            return state, since
        said = claim.said(condition)
        since = format_time(said.changed) if said is not None and said.changed is not None else since
    return "ready", since


def _pool(claim: Claim) -> str:
    return claim.metadata.label(claim.kind.pool_label[0]) or ""


def _capacity_type(claim: Claim) -> str:
    return claim.metadata.label(labels.CAPACITY_TYPE) or ""


@final
class MeteredProvider:
    """A provider whose calls are counted and measured, and whose writes ask ``fence`` first; that an instance is not there
    is no error."""

    def __init__(self, provider: CloudProvider, metrics: ClaimMetrics, fence: Fence) -> None:
        self.name = provider.name
        self._provider = provider
        self._metrics = metrics
        self._fence = fence

    async def create(self, spec: InstanceSpec) -> Instance:
        self._fence.check()
        with self._call("Create"):
            return await self._provider.create(spec)

    async def get(self, name: str) -> Instance:
        with self._call("Get"):
            return await self._provider.get(name)

    async def instance_types(self) -> list[InstanceType]:
        with self._call("GetInstanceTypes"):
            return await self._provider.instance_types()

    async def list(self) -> list[Instance]:
        with self._call("List"):
            return await self._provider.list()

    async def delete(self, instance: Instance) -> None:
        self._fence.check()
        with self._call("Delete"):
            await self._provider.delete(instance)

    async def aclose(self) -> None:
        await self._provider.aclose()

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except InstanceNotFound:
            raise
        except ProviderError as error:
            self._metrics.call_errors.labels(CONTROLLER, method, self.name, type(error).__name__).inc()
            raise
        finally:
            self._metrics.call_duration.labels(CONTROLLER, method, self.name).observe(time.monotonic() - started)
