"""Deployments: one ReplicaSet for each template, rolled from the old ones to the new one step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from kaito.devcluster.controllers import conditions, pods, rollout
from kaito.devcluster.controllers.deployment_status import deadline_in, deployment_status, is_complete
from kaito.devcluster.controllers.templates import same_template
from kaito.devcluster.controllers.workloads import Workload
from kaito.runtime import (
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    AlreadyExists,
    EventType,
    Key,
    LabelSelector,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    Resource,
    Stored,
    Watch,
    owner_keys,
    owner_reference,
)


class Deployments(Workload):
    name = "deployment-controller"
    resource = DEPLOYMENTS
    owned = REPLICA_SETS

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager)
        self._pods = manager.cache.lister(PODS)

    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        new, old = rollout.split(workload, owned)
        created = ""
        if not meta.deleting:
            new, created = await self._ensure_new(workload, meta, new, old)
            await self._number(workload, new, old)
            new, old = await self._step(workload, meta, new, old)
        now = self.clock.now()
        status = deployment_status(workload, new, old, created, now)
        await self.report(workload, status)
        due = deadline_in(workload, conditions.find({"status": status}, "Progressing"), now)
        return due + 1 if due else None

    async def _ensure_new(
        self, deployment: Manifest, meta: ObjectMeta, new: Manifest | None, old: list[Manifest]
    ) -> tuple[Manifest | None, str]:
        """The ReplicaSet of the present template, and its name if it has just been made."""
        if new is not None or deployment["spec"].get("paused"):
            return new, ""
        wanted = rollout.new_replica_set(deployment, old, owner_reference(DEPLOYMENTS, meta))
        name = wanted["metadata"]["name"]
        try:
            made = await self.client.create(REPLICA_SETS, wanted)
        except AlreadyExists:
            held = await self.client.get(REPLICA_SETS, name, meta.namespace)
            owners = held["metadata"].get("ownerReferences") or ()
            mine = any(item["uid"] == meta.uid for item in owners)
            if mine and same_template(held["spec"]["template"], wanted["spec"]["template"]):
                return held, ""
            count = (deployment.get("status") or {}).get("collisionCount", 0) + 1
            status = {**(deployment.get("status") or {}), "collisionCount": count}
            await self.client.update_status(DEPLOYMENTS, {**deployment, "status": status})
            raise
        if rollout.replicas(made):
            self._announce(deployment, made, 0, rollout.replicas(made))
        return made, name

    async def _number(self, deployment: Manifest, new: Manifest | None, old: list[Manifest]) -> None:
        """The newest template has the highest revision, also when it is an earlier one that came back."""
        if new is None:
            return
        missing = rollout.missing_annotations(deployment, new, old)
        if missing:
            new["metadata"] = (await self._annotate(REPLICA_SETS, new, missing))["metadata"]
        number = rollout.revision(new)
        if rollout.revision(deployment) != number:
            patched = await self._annotate(DEPLOYMENTS, deployment, {rollout.REVISION: str(number)})
            deployment["metadata"] = patched["metadata"]

    async def _annotate(self, resource: Resource[Manifest], obj: Manifest, changes: dict[str, str]) -> Manifest:
        metadata = obj["metadata"]
        patch = {"metadata": {"uid": metadata["uid"], "annotations": changes}}
        return await self.client.patch(resource, metadata["name"], patch, namespace=metadata["namespace"])

    async def _step(
        self, deployment: Manifest, meta: ObjectMeta, new: Manifest | None, old: list[Manifest]
    ) -> tuple[Manifest | None, list[Manifest]]:
        sets = [*old, *([new] if new else [])]
        if deployment["spec"].get("paused") or rollout.is_resized(deployment, sets):
            scales = rollout.resize(deployment, new, old)
        elif new is not None:
            scales = rollout.roll(deployment, new, old, old_pods=self._any_pods(deployment, old))
        else:
            scales = []
        changed = {}
        for scale in scales:
            changed[scale.replica_set["metadata"]["uid"]] = await self._scale(deployment, scale)
        for item in rollout.outlived(deployment, old):
            if is_complete(deployment, deployment.get("status") or {}):
                await self._forget(item)
        new = changed.get(new["metadata"]["uid"], new) if new is not None else None
        return new, [changed.get(item["metadata"]["uid"], item) for item in old]

    def _any_pods(self, deployment: Manifest, old: list[Manifest]) -> bool:
        """Whether pods of ``old`` are left. Asked only where the strategy is to wait for them."""
        if not rollout.recreates(deployment):
            return False
        owners = {item["metadata"]["uid"] for item in old}
        selector = LabelSelector.from_object(deployment["spec"]["selector"])
        return any(
            not pods.is_finished(pod)
            for pod in self._pods.list(deployment["metadata"]["namespace"], labels=selector)
            if any(item["uid"] in owners for item in pod["metadata"].get("ownerReferences") or ())
        )

    async def _scale(self, deployment: Manifest, scale: rollout.Scale) -> Manifest:
        held = scale.replica_set
        metadata = held["metadata"]
        noted = rollout.size_annotations(deployment)
        before = rollout.replicas(held)
        if before == scale.replicas and noted.items() <= (metadata.get("annotations") or {}).items():
            return held
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": noted},
            "spec": {"replicas": scale.replicas},
        }
        patched = await self.client.patch(REPLICA_SETS, metadata["name"], patch, namespace=metadata["namespace"])
        if before != scale.replicas:
            self._announce(deployment, held, before, scale.replicas)
        return patched

    async def _forget(self, replica_set: Manifest) -> None:
        metadata = replica_set["metadata"]
        with contextlib.suppress(NotFound):
            await self.client.delete(REPLICA_SETS, metadata["name"], metadata["namespace"], uid=metadata["uid"])

    def _announce(self, deployment: Manifest, replica_set: Manifest, before: int, after: int) -> None:
        metadata = deployment["metadata"]
        about = ObjectReference(
            api_version="apps/v1",
            kind="Deployment",
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
        )
        direction = "up" if after > before else "down"
        note = f"Scaled {direction} replica set {replica_set['metadata']['name']} from {before} to {after}"
        self.recorder.event(about, "Normal", "ScalingReplicaSet", note)


def deployment_of_pod(sets: Lister[Manifest]) -> Callable[[Stored[Any]], Iterable[Key]]:
    """A mapper from a pod to the Deployment of its ReplicaSet."""
    of_set = owner_keys(DEPLOYMENTS)

    def keys(pod: Stored[Any]) -> Iterable[Key]:
        for key in owner_keys(REPLICA_SETS)(pod):
            found = sets.stored(key.name, key.namespace)
            if found is not None:
                yield from of_set(found)

    return keys


def setup(manager: Manager) -> None:
    deployments = Deployments(manager)
    # The strategy Recreate waits for the last old pod to go.
    last_pods = Watch(PODS, deployment_of_pod(deployments.children), lambda event: event.type is EventType.DELETED)
    deployments.add_to(manager, [last_pods])
