"""ReplicaSets: as many pods of one template as asked for."""

from __future__ import annotations

from datetime import datetime

from kaito.devcluster.controllers import conditions, pods
from kaito.devcluster.controllers.ownership import adopters, claim
from kaito.runtime import (
    PODS,
    REPLICA_SETS,
    ApiError,
    Client,
    Clock,
    Controller,
    EventRecorder,
    Forbidden,
    LabelSelector,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    ObjectReference,
    Request,
    Result,
    Watch,
    owner_reference,
)

NAME = "replicaset-controller"
TERMINATING = "NamespaceTerminating"
"""Cause of the error with which a namespace that is being deleted refuses new objects."""


class ReplicaSetReconciler:
    def __init__(
        self,
        client: Client,
        sets: Lister[Manifest],
        pod_lister: Lister[Manifest],
        recorder: EventRecorder,
        clock: Clock,
    ) -> None:
        self._client = client
        self._sets = sets
        self._pods = pod_lister
        self._recorder = recorder
        self._clock = clock

    async def reconcile(self, request: Request) -> Result | None:
        stored = self._sets.stored(request.key.name, request.key.namespace)
        if stored is None:
            return None
        replica_set, meta = stored.decode(), stored.meta
        selector = LabelSelector.from_object(replica_set["spec"]["selector"])
        assert selector is not None, "the API server requires a selector"
        owned = await claim(self._client, REPLICA_SETS, meta, selector, PODS, self._pods.stored_list(meta.namespace))
        active = [pod for pod in owned if pods.is_active(pod)]
        failure: ApiError | None = None
        if not meta.deleting:
            try:
                active = await self._scale(replica_set, meta, active)
            except ApiError as error:
                if isinstance(error, Forbidden) and error.has_cause(TERMINATING):
                    return None
                failure = error
        now = self._clock.now()
        status, again = replica_set_status(replica_set, active, str(failure) if failure else "", now)
        if status != (replica_set.get("status") or {}):
            await self._client.update_status(REPLICA_SETS, {**replica_set, "status": status})
        if failure is not None:
            raise failure
        return Result(requeue_after=again) if again else None

    async def _scale(self, replica_set: Manifest, meta: ObjectMeta, active: list[Manifest]) -> list[Manifest]:
        """Create or delete pods; the active pods afterwards."""
        wanted = replica_set["spec"].get("replicas", 1)
        about = ObjectReference.of(REPLICA_SETS, meta)
        for _ in range(wanted - len(active)):
            pod = pods.from_template(
                replica_set["spec"]["template"],
                owner_reference(REPLICA_SETS, meta),
                generate_name=f"{meta.name}-",
            )
            try:
                created = await self._client.create(PODS, pod, namespace=meta.namespace)
            except ApiError as error:
                if not error.has_cause(TERMINATING):
                    self._recorder.event(about, "Warning", "FailedCreate", f"Error creating: {error.message}")
                raise
            self._recorder.event(about, "Normal", "SuccessfulCreate", f"Created pod: {created['metadata']['name']}")
            active = [*active, created]
        surplus = pods.deletion_order(active)[: max(0, len(active) - wanted)]
        for pod in surplus:
            metadata = pod["metadata"]
            try:
                await self._client.delete(PODS, metadata["name"], meta.namespace, uid=metadata["uid"])
            except NotFound:
                continue
            self._recorder.event(about, "Normal", "SuccessfulDelete", f"Deleted pod: {metadata['name']}")
        return [pod for pod in active if pod not in surplus]


def replica_set_status(
    replica_set: Manifest, active: list[Manifest], failure: str, now: datetime
) -> tuple[Manifest, float | None]:
    """The status that ``active`` pods make, and the seconds until a ready pod becomes available by waiting alone."""
    spec = replica_set["spec"]
    labels = LabelSelector.of((spec["template"].get("metadata") or {}).get("labels") or {})
    waits = [pods.available_in(pod, spec.get("minReadySeconds", 0), now) for pod in active]
    counts = {
        "fullyLabeledReplicas": sum(labels.matches(pod["metadata"].get("labels")) for pod in active),
        "readyReplicas": sum(wait is not None for wait in waits),
        "availableReplicas": sum(wait == 0 for wait in waits),
    }
    known = (replica_set.get("status") or {}).get("conditions") or []
    if failure:
        known = conditions.put(known, "ReplicaFailure", "True", "FailedCreate", failure, now)
    else:
        known = conditions.without(known, "ReplicaFailure")
    status: Manifest = {"replicas": len(active), **{name: count for name, count in counts.items() if count}}
    status["observedGeneration"] = replica_set["metadata"].get("generation", 0)
    if known:
        status["conditions"] = known
    return status, pods.soonest(waits)


def setup(manager: Manager) -> None:
    sets, pod_lister = manager.cache.lister(REPLICA_SETS), manager.cache.lister(PODS)
    reconciler = ReplicaSetReconciler(manager.client, sets, pod_lister, manager.recorder(NAME), manager.clock)
    manager.add(
        Controller(
            NAME,
            reconciler,
            primary=REPLICA_SETS,
            owns=(PODS,),
            watches=(Watch(PODS, adopters(sets)),),
            max_concurrent=4,
        )
    )
