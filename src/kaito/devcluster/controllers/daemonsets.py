"""DaemonSets: one pod on each node that the template may run on.

Looser than kube-controller-manager: a rolling update replaces pods before it makes new ones (``maxSurge`` does not act).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

from kaito.devcluster.controllers import pods, revisions
from kaito.devcluster.controllers.placement import selects, untolerated
from kaito.devcluster.controllers.resources import DAEMON_SETS
from kaito.devcluster.controllers.revisions import Revisions
from kaito.devcluster.controllers.scheduler import node_matters
from kaito.devcluster.controllers.workloads import Workload
from kaito.runtime import (
    CONTROLLER_REVISIONS,
    NODES,
    Key,
    LabelSelector,
    Manager,
    Manifest,
    ObjectMeta,
    Stored,
    Watch,
    owner_reference,
)

_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    create: tuple[str, ...] = ()
    """Names of nodes."""
    delete: tuple[Manifest, ...] = ()


def daemon_spec(template: Mapping[str, Any], node: str = "") -> Manifest:
    """The pod spec with the tolerations of every daemon and, with ``node``, pinned to that node."""
    spec: Manifest = deepcopy(template.get("spec") or {})
    tolerations = spec.setdefault("tolerations", [])
    tolerations += [{"key": key, "operator": "Exists", "effect": effect} for key, effect in _TOLERATED]
    if node:
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
        required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
        terms = required.get("nodeSelectorTerms") or [{}]
        required["nodeSelectorTerms"] = [{**term, "matchFields": [field]} for term in terms]
    return spec


def node_of(pod: Mapping[str, Any]) -> str:
    """The node that a daemon's pod is on or meant for."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field["key"] == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def eligible(daemon_set: Manifest, nodes: Iterable[Manifest]) -> set[str]:
    spec = daemon_spec(daemon_set["spec"]["template"])
    return {
        str(node["metadata"]["name"])
        for node in nodes
        if selects(spec, node) and untolerated(spec, node, ("NoSchedule", "NoExecute")) is None
    }


def plan(daemon_set: Manifest, wanted: set[str], owned: Iterable[Manifest], update: str, now: datetime) -> Plan:
    """Pods that are missing, too many, in the wrong place or, as far as the strategy allows, out of date."""
    by_node: dict[str, list[Manifest]] = {}
    for pod in owned:
        by_node.setdefault(node_of(pod), []).append(pod)
    create, delete, current = [], [], {}
    for node in sorted(wanted):
        here = by_node.pop(node, [])
        alive = sorted((pod for pod in here if pods.is_active(pod)), key=lambda pod: str(pod["metadata"]["name"]))
        delete += [pod for pod in here if pods.is_finished(pod) and not pods.is_deleting(pod)]
        delete += alive[1:]
        if alive:
            current[node] = alive[0]
        elif not here:
            create.append(node)
    delete += [pod for group in by_node.values() for pod in group if not pods.is_deleting(pod)]
    spec = daemon_set["spec"]
    if (spec.get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate":
        limit = _max_unavailable(spec, len(wanted))
        old = [pod for pod in current.values() if _revision(pod) != update]
        down = [pod for pod in old if pods.available_in(pod, spec.get("minReadySeconds", 0), now) != 0]
        serving = sum(pods.available_in(pod, spec.get("minReadySeconds", 0), now) == 0 for pod in current.values())
        room = max(0, limit - (len(wanted) - serving))
        delete += down + [pod for pod in old if pod not in down][:room]
    return Plan(tuple(create), tuple(delete))


def _max_unavailable(spec: Mapping[str, Any], nodes: int) -> int:
    value = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("maxUnavailable", 1)
    return value if isinstance(value, int) else max(1, ceil(int(value.removesuffix("%")) * nodes / 100))


def _revision(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get(revisions.LABEL, ""))


def daemon_set_status(
    daemon_set: Manifest, wanted: set[str], owned: Iterable[Manifest], update: str, now: datetime
) -> tuple[Manifest, float | None]:
    spec = daemon_set["spec"]
    active = [pod for pod in owned if pods.is_active(pod)]
    placed = {node_of(pod): pod for pod in active if node_of(pod) in wanted}
    waits = [pods.available_in(pod, spec.get("minReadySeconds", 0), now) for pod in placed.values()]
    available = sum(wait == 0 for wait in waits)
    status: Manifest = {
        "currentNumberScheduled": len(placed),
        "desiredNumberScheduled": len(wanted),
        "numberMisscheduled": sum(node_of(pod) not in wanted for pod in active),
        "numberReady": sum(wait is not None for wait in waits),
        "observedGeneration": daemon_set["metadata"].get("generation", 0),
    }
    more = {
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "updatedNumberScheduled": sum(_revision(pod) == update for pod in placed.values()),
    }
    return {**status, **{name: count for name, count in more.items() if count}}, pods.soonest(waits)


class DaemonSets(Workload):
    name = "daemonset-controller"
    resource = DAEMON_SETS
    workers = 2

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager)
        self._nodes = manager.cache.lister(NODES)
        self._history = Revisions(manager.client, DAEMON_SETS, manager.cache.lister(CONTROLLER_REVISIONS))

    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        if meta.deleting:
            return None
        history = await self._history.sync(workload, meta, selector)
        wanted = eligible(workload, self._nodes.list())
        step = plan(workload, wanted, owned, history.name, self.clock.now())
        owned = await self._carry_out(workload, meta, step, owned, history.name)
        status, again = daemon_set_status(workload, wanted, owned, history.name, self.clock.now())
        await self.report(workload, status)
        live = {_revision(pod) for pod in owned}
        await self._history.truncate(history, live, workload["spec"].get("revisionHistoryLimit", 10))
        return again

    async def _carry_out(
        self, daemon_set: Manifest, meta: ObjectMeta, step: Plan, owned: list[Manifest], revision: str
    ) -> list[Manifest]:
        template = daemon_set["spec"]["template"]
        for pod in step.delete:
            await self.delete_pod(meta, pod)
        for node in step.create:
            pod = pods.from_template(
                {**template, "spec": daemon_spec(template, node)},
                owner_reference(DAEMON_SETS, meta),
                generate_name=f"{meta.name}-",
                labels={revisions.LABEL: revision},
            )
            owned = [*owned, await self.create_pod(meta, pod)]
        gone = {pod["metadata"]["uid"] for pod in step.delete}
        return [pod for pod in owned if pod["metadata"]["uid"] not in gone]


def setup(manager: Manager) -> None:
    daemons = DaemonSets(manager)

    def every(_: Stored[Any]) -> Iterable[Key]:
        return [stored.key for stored in daemons.workloads.stored_list()]

    daemons.add_to(manager, [Watch(NODES, every, node_matters)])
