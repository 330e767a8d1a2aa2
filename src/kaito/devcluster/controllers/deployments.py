"""Deployments: one ReplicaSet for each template, rolled from the old ones to the new one step by step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from kaito.devcluster.controllers import conditions, pods, rollout
from kaito.devcluster.controllers.deployment_status import deadline_in, deployment_status, is_complete
from kaito.devcluster.controllers.ownership import adopters, claim
from kaito.devcluster.controllers.replicasets import TERMINATING
from kaito.devcluster.controllers.templates import same_template
from kaito.runtime import (
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    AlreadyExists,
    Client,
    Clock,
    Controller,
    EventRecorder,
    EventType,
    Forbidden,
    Key,
    LabelSelector,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    Request,
    Resource,
    Result,
    Stored,
    Watch,
    owner_keys,
    owner_reference,
)

NAME = "deployment-controller"


class DeploymentReconciler:
    def __init__(
        self,
        client: Client,
        deployments: Lister[Manifest],
        sets: Lister[Manifest],
        pod_lister: Lister[Manifest],
        recorder: EventRecorder,
        clock: Clock,
    ) -> None:
        self._client = client
        self._pods = pod_lister
        self._deployments = deployments
        self._sets = sets
        self._recorder = recorder
        self._clock = clock

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._deployments.stored(request.key.name, request.key.namespace)
        if stored is None:
            return None
        deployment, meta = stored.decode(), stored.meta
        selector = LabelSelector.from_object(deployment["spec"]["selector"])
        assert selector is not None, "the API server requires a selector"
        owned = await claim(
            self._client, DEPLOYMENTS, meta, selector, REPLICA_SETS, self._sets.stored_list(meta.namespace)
        )
        new, old = rollout.split(deployment, owned)
        created = ""
        if not meta.deleting:
            new, created = await self._ensure_new(deployment, meta, new, old)
            await self._number(deployment, new, old)
            new, old = await self._step(deployment, meta, new, old)
        return await self._report(deployment, new, old, created)

    async def _ensure_new(
        self, deployment: Manifest, meta: ObjectMeta, new: Manifest | None, old: list[Manifest]
    ) -> tuple[Manifest | None, str]:
        """The ReplicaSet of the present template, and its name if it has just been made."""
        if new is not None or deployment["spec"].get("paused"):
            return new, ""
        wanted = rollout.new_replica_set(deployment, old, owner_reference(DEPLOYMENTS, meta))
        name = wanted["metadata"]["name"]
        try:
            made = await self._client.create(REPLICA_SETS, wanted)
        except AlreadyExists:
            held = await self._client.get(REPLICA_SETS, name, meta.namespace)
            owners = held["metadata"].get("ownerReferences") or ()
            mine = any(item["uid"] == meta.uid for item in owners)
            if mine and same_template(held["spec"]["template"], wanted["spec"]["template"]):
                return held, ""
            count = (deployment.get("status") or {}).get("collisionCount", 0) + 1
            status = {**(deployment.get("status") or {}), "collisionCount": count}
            await self._client.update_status(DEPLOYMENTS, {**deployment, "status": status})
            raise
        except Forbidden as error:
            if not error.has_cause(TERMINATING):
                raise
            return None, ""
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
        return await self._client.patch(resource, metadata["name"], patch, namespace=metadata["namespace"])

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
        patched = await self._client.patch(REPLICA_SETS, metadata["name"], patch, namespace=metadata["namespace"])
        if before != scale.replicas:
            self._announce(deployment, held, before, scale.replicas)
        return patched

    async def _forget(self, replica_set: Manifest) -> None:
        metadata = replica_set["metadata"]
        with contextlib.suppress(NotFound):
            await self._client.delete(REPLICA_SETS, metadata["name"], metadata["namespace"], uid=metadata["uid"])

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
        self._recorder.event(about, "Normal", "ScalingReplicaSet", note)

    async def _report(
        self, deployment: Manifest, new: Manifest | None, old: list[Manifest], created: str
    ) -> Result | None:
        now = self._clock.now()
        status = deployment_status(deployment, new, old, created, now)
        if status != (deployment.get("status") or {}):
            await self._client.update_status(DEPLOYMENTS, {**deployment, "status": status})
        progressing = conditions.find({"status": status}, "Progressing")
        due = deadline_in(deployment, progressing, now)
        return Result(requeue_after=due + 1) if due else None


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
    deployments, sets = manager.cache.lister(DEPLOYMENTS), manager.cache.lister(REPLICA_SETS)
    reconciler = DeploymentReconciler(
        manager.client, deployments, sets, manager.cache.lister(PODS), manager.recorder(NAME), manager.clock
    )
    manager.add(
        Controller(
            NAME,
            reconciler,
            primary=DEPLOYMENTS,
            owns=(REPLICA_SETS,),
            watches=(
                Watch(REPLICA_SETS, adopters(deployments)),
                # The strategy Recreate waits for the last old pod to go.
                Watch(PODS, deployment_of_pod(sets), lambda event: event.type is EventType.DELETED),
            ),
            max_concurrent=4,
        )
    )
