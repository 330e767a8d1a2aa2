"""The arithmetic of a Deployment's roll-out: which ReplicaSet is the new one, and how far each may grow or must shrink.

Pure functions on manifests. ReplicaSets are told apart by their templates, apart from the hash label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from kaito.devcluster.controllers.templates import HASH_LABEL, same_template, template_hash
from kaito.runtime import Manifest

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = (
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
)
"""Annotations of a Deployment that its ReplicaSets do not take over."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One ReplicaSet is to have so many replicas."""

    replica_set: Manifest
    replicas: int


def replicas(obj: Mapping[str, Any]) -> int:
    return int(obj["spec"].get("replicas", 1))


def available(replica_set: Mapping[str, Any]) -> int:
    return int((replica_set.get("status") or {}).get("availableReplicas", 0))


def revision(obj: Mapping[str, Any]) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


def by_age(sets: Iterable[Manifest]) -> list[Manifest]:
    """Oldest first."""
    return sorted(sets, key=lambda item: (item["metadata"].get("creationTimestamp", ""), item["metadata"]["name"]))


def split(deployment: Manifest, sets: Iterable[Manifest]) -> tuple[Manifest | None, list[Manifest]]:
    """The ReplicaSet of the Deployment's present template, None if there is none yet, and all others, oldest first."""
    template = deployment["spec"]["template"]
    new: Manifest | None = None
    old = []
    for item in by_age(sets):
        if new is None and same_template(item["spec"]["template"], template):
            new = item
        else:
            old.append(item)
    return new, old


def bounds(deployment: Manifest) -> tuple[int, int]:
    """``maxSurge`` and ``maxUnavailable`` in pods; both 0 for Recreate. They are never both 0 for a rolling update."""
    if recreates(deployment):
        return 0, 0
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    wanted = replicas(deployment)
    surge = ceil(_share(rolling.get("maxSurge", "25%"), wanted))
    unavailable = floor(_share(rolling.get("maxUnavailable", "25%"), wanted))
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, wanted)


def _share(value: int | str, of: int) -> float:
    if isinstance(value, int):
        return value
    return int(value.removesuffix("%")) * of / 100


def new_replica_set(deployment: Manifest, old: Sequence[Manifest], owner: Mapping[str, Any]) -> Manifest:
    """The ReplicaSet for the present template, at the size with which its roll-out starts."""
    metadata, spec = deployment["metadata"], deployment["spec"]
    digest = template_hash(spec["template"], (deployment.get("status") or {}).get("collisionCount", 0))
    template = dict(spec["template"])
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: digest}
    template["metadata"] = {**(template.get("metadata") or {}), "labels": labels}
    selector = dict(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    body: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": set_annotations(deployment, next_revision(old)),
            "ownerReferences": [dict(owner)],
        },
        "spec": {
            "replicas": 0,
            "minReadySeconds": spec.get("minReadySeconds", 0),
            "selector": selector,
            "template": template,
        },
    }
    if not recreates(deployment):
        body["spec"]["replicas"] = grown(deployment, body, old)
    return body


def recreates(deployment: Mapping[str, Any]) -> bool:
    """Whether all old pods are to be gone before the first new one comes."""
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "Recreate")


def next_revision(old: Iterable[Manifest]) -> int:
    return max((revision(item) for item in old), default=0) + 1


def set_annotations(deployment: Manifest, number: int) -> dict[str, str]:
    """What a ReplicaSet of revision ``number`` carries."""
    source = deployment["metadata"].get("annotations") or {}
    return {
        **{name: value for name, value in source.items() if name not in _NOT_COPIED},
        REVISION: str(number),
        **size_annotations(deployment),
    }


def size_annotations(deployment: Manifest) -> dict[str, str]:
    """The size for which a ReplicaSet was scaled; proportional scaling starts from it."""
    wanted = replicas(deployment)
    return {DESIRED_REPLICAS: str(wanted), MAX_REPLICAS: str(wanted + bounds(deployment)[0])}


def missing_annotations(deployment: Manifest, new: Manifest, old: Iterable[Manifest]) -> dict[str, str]:
    """What the new ReplicaSet does not say yet. One that comes back takes the highest revision and keeps its earlier ones."""
    held = new["metadata"].get("annotations") or {}
    before, number = revision(new), next_revision(old)
    sizes = size_annotations(deployment)
    wanted = {name: value for name, value in set_annotations(deployment, number).items() if name not in sizes}
    if before >= number:
        del wanted[REVISION]
    elif before:
        past = [text for text in held.get(REVISION_HISTORY, "").split(",") if text]
        wanted[REVISION_HISTORY] = ",".join(dict.fromkeys([*past, str(before)]))
    return {name: value for name, value in wanted.items() if held.get(name) != value}


def grown(deployment: Manifest, new: Manifest, old: Iterable[Manifest]) -> int:
    """The size of the new ReplicaSet that ``maxSurge`` allows now."""
    wanted, have = replicas(deployment), replicas(new)
    if have >= wanted:
        return wanted
    room = wanted + bounds(deployment)[0] - have - sum(replicas(item) for item in old)
    return have + max(0, min(room, wanted - have))


def shrink(deployment: Manifest, new: Manifest, old: Sequence[Manifest]) -> list[Scale]:
    """What old ReplicaSets may give up while ``maxUnavailable`` is kept: first pods that do not serve anyway."""
    floor_ = replicas(deployment) - bounds(deployment)[1]
    everything = sum(replicas(item) for item in (*old, new))
    budget = everything - floor_ - (replicas(new) - available(new))
    sizes = {item["metadata"]["name"]: replicas(item) for item in old}
    left = budget
    for item in old:
        idle = min(left, max(0, sizes[item["metadata"]["name"]] - available(item)))
        if idle > 0:
            sizes[item["metadata"]["name"]] -= idle
            left -= idle
    serving = min(left, available(new) + sum(available(item) for item in old) - floor_)
    for item in old:
        given = min(serving, sizes[item["metadata"]["name"]])
        if given > 0:
            sizes[item["metadata"]["name"]] -= given
            serving -= given
    return [
        Scale(item, sizes[item["metadata"]["name"]])
        for item in old
        if sizes[item["metadata"]["name"]] != replicas(item)
    ]


def roll(deployment: Manifest, new: Manifest, old: Sequence[Manifest], *, old_pods: bool) -> list[Scale]:
    """The next step of the roll-out; empty when it has to wait or is done.

    ``old_pods``: whether pods of ``old`` still run, those that are being deleted included.
    """
    if recreates(deployment):
        going = [Scale(item, 0) for item in old if replicas(item)]
        if going or old_pods:
            return going
        return [Scale(new, replicas(deployment))] if replicas(new) != replicas(deployment) else []
    size = grown(deployment, new, old)
    if size != replicas(new):
        return [Scale(new, size)]
    return shrink(deployment, new, old)


def is_resized(deployment: Manifest, sets: Iterable[Manifest]) -> bool:
    """Whether the Deployment's size changed since its ReplicaSets were scaled."""
    wanted = str(replicas(deployment))
    return any(
        (item["metadata"].get("annotations") or {}).get(DESIRED_REPLICAS, wanted) != wanted
        for item in sets
        if replicas(item)
    )


def resize(deployment: Manifest, new: Manifest | None, old: Sequence[Manifest]) -> list[Scale]:
    """Spread a changed size over all ReplicaSets in proportion, as is done in the middle of a roll-out or while paused."""
    wanted = replicas(deployment)
    active = [item for item in (*old, *([new] if new else [])) if replicas(item)]
    if len(active) <= 1:
        only = active[0] if active else new or (by_age(old)[-1] if old else None)
        return [Scale(only, wanted)] if only is not None else []
    if new is not None and replicas(new) == wanted and available(new) == wanted:
        return [Scale(item, 0) for item in old if replicas(item)]
    if recreates(deployment):
        return []
    total = sum(replicas(item) for item in active)
    limit = wanted + bounds(deployment)[0] if wanted else 0
    missing = limit - total
    largest_first = sorted(by_age(active), key=replicas, reverse=missing > 0)
    sizes, given = {}, 0
    for item in largest_first:
        share = _proportion(item, limit, missing, missing - given)
        sizes[item["metadata"]["name"]] = max(0, replicas(item) + share)
        given += share
    first = largest_first[0]["metadata"]["name"]
    sizes[first] = max(0, sizes[first] + missing - given)
    return [Scale(item, sizes[item["metadata"]["name"]]) for item in active]


def _proportion(item: Manifest, limit: int, missing: int, left: int) -> int:
    """The part of ``missing`` pods (negative: surplus) that falls to one ReplicaSet, at most what is ``left`` of it."""
    have = replicas(item)
    before = int((item["metadata"].get("annotations") or {}).get(MAX_REPLICAS, "0")) or limit
    share = round(have * limit / before) - have if limit else -have
    return max(0, min(share, left)) if missing > 0 else min(0, max(share, left))


def outlived(deployment: Manifest, old: Iterable[Manifest]) -> list[Manifest]:
    """Old ReplicaSets beyond ``revisionHistoryLimit``, lowest revisions first."""
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    idle = [
        item
        for item in old
        if not replicas(item)
        and not (item.get("status") or {}).get("replicas", 0)
        and (item.get("status") or {}).get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
        and "deletionTimestamp" not in item["metadata"]
    ]
    return sorted(idle, key=revision)[: max(0, len(idle) - limit)]
