"""ReplicaSets: as many pods of one template as asked for."""

from __future__ import annotations

from datetime import datetime

from kaito.devcluster.controllers import conditions, pods
from kaito.devcluster.controllers.workloads import TERMINATING, Workload
from kaito.runtime import (
    REPLICA_SETS,
    ApiError,
    LabelSelector,
    Manager,
    Manifest,
    ObjectMeta,
    ObjectReference,
    owner_reference,
)


class ReplicaSets(Workload):
    name = "replicaset-controller"
    resource = REPLICA_SETS

    async def sync(
        self, workload: Manifest, meta: ObjectMeta, selector: LabelSelector, owned: list[Manifest]
    ) -> float | None:
        active = [pod for pod in owned if pods.is_active(pod)]
        failure: ApiError | None = None
        if not meta.deleting:
            try:
                active = await self._scale(workload, meta, active)
            except ApiError as error:
                if error.has_cause(TERMINATING):
                    raise
                about = ObjectReference.of(REPLICA_SETS, meta)
                self.recorder.event(about, "Warning", "FailedCreate", f"Error creating: {error.message}")
                failure = error
        status, again = replica_set_status(workload, active, str(failure) if failure else "", self.clock.now())
        await self.report(workload, status)
        if failure is not None:
            raise failure
        return again

    async def _scale(self, replica_set: Manifest, meta: ObjectMeta, active: list[Manifest]) -> list[Manifest]:
        """Create or delete pods; the active pods afterwards."""
        wanted = replica_set["spec"].get("replicas", 1)
        owner, template = owner_reference(REPLICA_SETS, meta), replica_set["spec"]["template"]
        for _ in range(wanted - len(active)):
            pod = pods.from_template(template, owner, generate_name=f"{meta.name}-")
            active = [*active, await self.create_pod(meta, pod)]
        surplus = pods.deletion_order(active)[: max(0, len(active) - wanted)]
        for pod in surplus:
            await self.delete_pod(meta, pod)
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
    ReplicaSets(manager).add_to(manager)
