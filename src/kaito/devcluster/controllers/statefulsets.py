"""StatefulSets: numbered pods with names and claims of their own, made and replaced in order.

Looser than kube-controller-manager: ``persistentVolumeClaimRetentionPolicy`` and ``rollingUpdate.maxUnavailable`` do not
act (claims stay, pods are replaced one by one).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.devcluster.controllers import pods, revisions
from kaito.devcluster.controllers.resources import PERSISTENT_VOLUME_CLAIMS
from kaito.devcluster.controllers.revisions import History, Revisions, template_of
from kaito.devcluster.controllers.workloads import Workload
from kaito.runtime import (
    CONTROLLER_REVISIONS,
    STATEFUL_SETS,
    AlreadyExists,
    LabelSelector,
    Manager,
    Manifest,
    ObjectMeta,
    owner_reference,
)

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


@dataclass(frozen=True, slots=True)
class Create:
    ordinal: int
    revision: str


@dataclass(frozen=True, slots=True)
class Delete:
    pod: Manifest


Action = Create | Delete


def ordinal_of(stateful_set: Mapping[str, Any], pod: Mapping[str, Any]) -> int | None:
    prefix, _, number = pod["metadata"]["name"].rpartition("-")
    return int(number) if prefix == stateful_set["metadata"]["name"] and number.isdigit() else None


def first_ordinal(spec: Mapping[str, Any]) -> int:
    return int((spec.get("ordinals") or {}).get("start", 0))


def plan(
    stateful_set: Manifest, by_ordinal: Mapping[int, Manifest], current: str, update: str, now: datetime
) -> list[Action]:
    """What to do next. With OrderedReady at most one thing, and none while a pod is on its way."""
    spec = stateful_set["spec"]
    ordered = spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
    start = first_ordinal(spec)
    end = start + spec.get("replicas", 1)
    strategy = spec.get("updateStrategy") or {}
    rolling = strategy.get("type", "RollingUpdate") == "RollingUpdate"
    partition = start + (strategy.get("rollingUpdate") or {}).get("partition", 0) if rolling else end

    def healthy(pod: Manifest) -> bool:
        return pods.is_active(pod) and pods.available_in(pod, spec.get("minReadySeconds", 0), now) == 0

    actions: list[Action] = []
    for ordinal in range(start, end):
        pod = by_ordinal.get(ordinal)
        if pod is None:
            actions.append(Create(ordinal, current if rolling and ordinal < partition else update))
        elif pods.is_finished(pod) and not pods.is_deleting(pod):
            actions.append(Delete(pod))
        elif healthy(pod):
            continue
        if ordered:
            return actions
    condemned = sorted((number for number in by_ordinal if not start <= number < end), reverse=True)
    for ordinal in condemned:
        pod = by_ordinal[ordinal]
        if not pods.is_deleting(pod):
            actions.append(Delete(pod))
        if ordered:
            return actions
    if actions or not rolling:
        return actions
    for ordinal in range(end - 1, partition - 1, -1):
        pod = by_ordinal[ordinal]
        if revision_of(pod) != update:
            return [] if pods.is_deleting(pod) else [Delete(pod)]
        if not healthy(pod):
            return []
    return []


def revision_of(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get(revisions.LABEL, ""))


def new_pod(stateful_set: Manifest, owner: Mapping[str, Any], action: Create, revision: Mapping[str, Any]) -> Manifest:
    name = f"{stateful_set['metadata']['name']}-{action.ordinal}"
    labels = {POD_NAME: name, POD_INDEX: str(action.ordinal), revisions.LABEL: action.revision}
    pod = pods.from_template(template_of(revision), owner, name=name, labels=labels)
    spec = pod["spec"]
    spec["hostname"] = name
    if stateful_set["spec"].get("serviceName"):
        spec["subdomain"] = stateful_set["spec"]["serviceName"]
    claims = stateful_set["spec"].get("volumeClaimTemplates") or ()
    names = {item["metadata"]["name"] for item in claims}
    volumes = [item for item in spec.get("volumes") or () if item["name"] not in names]
    volumes += [{"name": item, "persistentVolumeClaim": {"claimName": f"{item}-{name}"}} for item in names]
    if volumes:
        spec["volumes"] = sorted(volumes, key=lambda item: str(item["name"]))
    return pod


def new_claims(stateful_set: Manifest, ordinal: int) -> list[Manifest]:
    """The claims of one pod. They have no owner: data outlives pods and sets."""
    name = stateful_set["metadata"]["name"]
    selector = (stateful_set["spec"].get("selector") or {}).get("matchLabels") or {}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                **{key: value for key, value in item["metadata"].items() if key in ("annotations",)},
                "name": f"{item['metadata']['name']}-{name}-{ordinal}",
                "labels": {**(item["metadata"].get("labels") or {}), **selector},
            },
            "spec": item["spec"],
        }
        for item in stateful_set["spec"].get("volumeClaimTemplates") or ()
    ]


def stateful_set_status(
    stateful_set: Manifest, owned: list[Manifest], current: str, update: str, now: datetime
) -> tuple[Manifest, float | None]:
    """The status that ``owned`` pods make, and the seconds until waiting alone changes it."""
    spec = stateful_set["spec"]
    waits = [
        pods.available_in(pod, spec.get("minReadySeconds", 0), now) if pods.is_active(pod) else None for pod in owned
    ]
    active = [pod for pod in owned if pods.is_active(pod)]
    counts = {
        "readyReplicas": sum(wait is not None for wait in waits),
        "currentReplicas": sum(revision_of(pod) == current for pod in active),
        "updatedReplicas": sum(revision_of(pod) == update for pod in active),
    }
    strategy = (spec.get("updateStrategy") or {}).get("type", "RollingUpdate")
    done = counts["updatedReplicas"] == counts["readyReplicas"] == len(owned) == spec.get("replicas", 1)
    if strategy == "RollingUpdate" and done:
        current, counts["currentReplicas"] = update, counts["updatedReplicas"]
    before = stateful_set.get("status") or {}
    status: Manifest = {
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
        "replicas": len(owned),
        "availableReplicas": sum(wait == 0 for wait in waits),
        **{name: count for name, count in counts.items() if count},
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": before.get("collisionCount", 0),
    }
    if before.get("conditions"):
        status["conditions"] = before["conditions"]
    return status, pods.soonest(waits)


class StatefulSets(Workload):
    name = "statefulset-controller"
    resource = STATEFUL_SETS
    created = "create Pod {pod} in StatefulSet {owner} successful"
    deleted = "delete Pod {pod} in StatefulSet {owner} successful"

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager)
        self._claims = manager.cache.lister(PERSISTENT_VOLUME_CLAIMS)
        self._history = Revisions(manager.client, STATEFUL_SETS, manager.cache.lister(CONTROLLER_REVISIONS))

    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        if meta.deleting:
            return None
        history = await self._history.sync(workload, meta, selector)
        current = self._current(workload, history)
        owned = await self._act(workload, meta, owned, current, history)
        status, again = stateful_set_status(workload, owned, current, history.name, self.clock.now())
        await self.report(workload, status)
        live = {revision_of(pod) for pod in owned} | {current}
        await self._history.truncate(history, live, workload["spec"].get("revisionHistoryLimit", 10))
        return again

    def _current(self, stateful_set: Manifest, history: History) -> str:
        known = (stateful_set.get("status") or {}).get("currentRevision", "")
        return known if known and history.find(known) else history.name

    async def _act(
        self, stateful_set: Manifest, meta: ObjectMeta, owned: list[Manifest], current: str, history: History
    ) -> list[Manifest]:
        numbered = {number: pod for pod in owned if (number := ordinal_of(stateful_set, pod)) is not None}
        for action in plan(stateful_set, numbered, current, history.name, self.clock.now()):
            if isinstance(action, Create):
                await self._ensure_claims(stateful_set, meta, action.ordinal)
                revision = history.find(action.revision) or history.update
                pod = new_pod(stateful_set, owner_reference(STATEFUL_SETS, meta), action, revision)
                owned = [*owned, await self.create_pod(meta, pod)]
            else:
                await self.delete_pod(meta, action.pod)
        return owned

    async def _ensure_claims(self, stateful_set: Manifest, meta: ObjectMeta, ordinal: int) -> None:
        for item in new_claims(stateful_set, ordinal):
            if self._claims.stored(item["metadata"]["name"], meta.namespace) is None:
                with contextlib.suppress(AlreadyExists):
                    await self.client.create(PERSISTENT_VOLUME_CLAIMS, item, namespace=meta.namespace)


def setup(manager: Manager) -> None:
    StatefulSets(manager).add_to(manager)
