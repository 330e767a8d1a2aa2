"""Garbage: instances and Nodes that no claim holds, and claims whose instance has vanished or whose Workspace is gone.

The cloud and the cluster are asked anew in every round. What looks like garbage is removed in the next round, if it still
looks so; an error means that nothing is known, and the counting starts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, final

from kaito.api import labels
from kaito.api.resources import WORKSPACES
from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import KINDS, Claim, readable
from kaito.controllers.machine.metrics import GARBAGE_COLLECTED
from kaito.controllers.machine.termination import release_node
from kaito.provisioner import InstanceNotFound, InstanceState, ProviderError
from kaito.runtime import (
    NotFound,
    ObjectMeta,
    ObjectReference,
    Request,
    Result,
    RuntimeFault,
    get_logger,
    metadata_resource,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping, Sequence
    from datetime import datetime

    from kaito.controllers.machine.claims import ClaimKind
    from kaito.controllers.machine.cloud import Cloud
    from kaito.controllers.machine.metrics import ClaimMetrics
    from kaito.controllers.machine.settings import Settings
    from kaito.provisioner import Instance
    from kaito.runtime import Client, Clock, EventRecorder, Lister, Manifest, Stored

_log = get_logger("machine-garbage")


@dataclass(frozen=True, slots=True)
class Garbage:
    """What one round has found."""

    instances: dict[str, Instance]
    """By owner's uid."""
    claims: dict[str, Claim]
    """Whose instance has vanished; by uid."""
    orphans: dict[str, Claim]
    """Whose Workspace is gone; by uid."""
    nodes: dict[str, Stored[Manifest]]
    """By uid."""
    unmarked: tuple[tuple[Claim, str], ...] = ()
    """Claims of which it is not noted yet that there is a Workspace, with its uid: no garbage, but what tells it later from
    claims that bear the labels of no Workspace that ever was."""

    def confirmed(self, earlier: Garbage) -> Garbage:
        """What ``earlier`` had found too."""
        return Garbage(
            {key: value for key, value in self.instances.items() if key in earlier.instances},
            {key: value for key, value in self.claims.items() if key in earlier.claims},
            {key: value for key, value in self.orphans.items() if key in earlier.orphans},
            {key: value for key, value in self.nodes.items() if key in earlier.nodes},
        )


NOTHING = Garbage({}, {}, {}, {})


def find_garbage(
    instances: Sequence[Instance],
    held: Iterable[ObjectMeta],
    claims: Iterable[Claim],
    node_list: Iterable[Stored[Manifest]],
    workspaces: Mapping[tuple[str, str], str] | None,
    now: datetime,
    grace: timedelta,
) -> Garbage:
    """``held`` are all claims, ours or not, and must have been listed after ``instances``: a claim is always there before
    its instance. ``claims`` are those of ours that can be read. ``workspaces`` are uids by namespace and name; None
    where they cannot be known."""
    metas = list(held)
    wanted, names = {meta.uid for meta in metas}, {meta.name for meta in metas}
    owners, pools = {instance.owner for instance in instances}, {instance.name for instance in instances}
    alive = [claim for claim in claims if not claim.deleting and claim.uid in wanted]
    return Garbage(
        instances={
            instance.owner: instance
            for instance in instances
            if instance.owner
            and instance.owner not in wanted
            and instance.state is not InstanceState.DELETING
            and (instance.created_at is None or now - instance.created_at > grace)
        },
        claims={claim.uid: claim for claim in alive if claim.launched and claim.uid not in owners},
        orphans={
            claim.uid: claim
            for claim in alive
            if workspaces is not None
            and (workspace := _workspace_of(claim)) is not None
            and workspace not in workspaces
            and claim.metadata.annotation(labels.WORKSPACE_SEEN)
            and now - claim.created(now) > grace
        },
        nodes={
            node.uid: node
            for node in node_list
            if nodes.is_ours(node)
            and (pool := next(iter(nodes.pools_of(node)), ""))
            and pool not in names
            and pool not in pools
        },
        unmarked=tuple(
            (claim, uid)
            for claim in alive
            if workspaces is not None
            and not claim.metadata.annotation(labels.WORKSPACE_SEEN)
            and (uid := workspaces.get(_workspace_of(claim) or ("", "")))
        ),
    )


def _workspace_of(claim: Claim) -> tuple[str, str] | None:
    namespace = claim.metadata.label(labels.WORKSPACE_NAMESPACE)
    name = claim.metadata.label(labels.WORKSPACE)
    return (namespace, name) if namespace and name else None


@final
class GarbageCollector:
    """A reconciler of one key: each reconcile is a round."""

    def __init__(
        self,
        client: Client,
        listers: Mapping[ClaimKind, Lister[Any]],
        node_lister: Lister[Manifest],
        cloud: Cloud,
        recorder: EventRecorder,
        clock: Clock,
        settings: Settings,
        metrics: ClaimMetrics,
    ) -> None:
        self._client = client
        self._listers = listers
        self._nodes = node_lister
        self._cloud = cloud
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._seen = NOTHING

    async def reconcile(self, request: Request) -> Result | None:
        earlier, self._seen = self._seen, NOTHING
        try:
            found = await self._find()
        except (ProviderError, RuntimeFault) as error:
            _log.warning("cannot look for garbage", error=str(error))
            return None
        self._seen = found
        for claim, uid in found.unmarked:
            await self._attempt(f"claim {claim.name}", self._mark(claim, uid))
        garbage = found.confirmed(earlier)
        for instance in garbage.instances.values():
            await self._attempt(f"instance {instance.name}", self._delete_instance(instance))
        for claim in garbage.claims.values():
            await self._attempt(f"claim {claim.name}", self._delete_without_instance(claim))
        for claim in garbage.orphans.values():
            workspace = "/".join(_workspace_of(claim) or ())
            words = f"because its Workspace {workspace} is gone"
            await self._attempt(f"claim {claim.name}", self._delete_claim(claim, "WorkspaceGone", words))
        for node in garbage.nodes.values():
            await self._attempt(f"Node {node.key}", release_node(self._client, node))
        return None

    async def _find(self) -> Garbage:
        instances = await self._cloud.refresh()
        held: list[ObjectMeta] = []
        for kind in KINDS.values():
            held += await self._held(kind)
        workspaces = await self._workspaces()
        return find_garbage(
            list(instances.values()),
            held,
            self._claims(),
            self._nodes.stored_list(),
            workspaces,
            self._clock.now(),
            timedelta(seconds=self._settings.garbage_grace),
        )

    async def _held(self, kind: ClaimKind) -> list[ObjectMeta]:
        """All claims of a kind, also of one that is not served here: another process may serve it."""
        try:
            return await self._client.list(metadata_resource(kind.resource))
        except NotFound:
            if kind in self._settings.kinds:
                raise  # its definition is yet to come, and its objects perhaps with it
            return []  # there are no such objects in this cluster

    async def _workspaces(self) -> dict[tuple[str, str], str] | None:
        try:
            metas = await self._client.list(metadata_resource(WORKSPACES))
        except NotFound:
            return None  # another operator asks for the nodes
        return {(meta.namespace, meta.name): meta.uid for meta in metas}

    def _claims(self) -> Iterable[Claim]:
        for kind, lister in self._listers.items():
            yield from readable(kind, lister.stored_list())

    async def _attempt(self, what: str, removal: Awaitable[None]) -> None:
        """One removal, whose failure must not keep the others; the next round finds it again."""
        try:
            await removal
        except (ProviderError, RuntimeFault) as error:
            _log.warning("cannot remove garbage", garbage=what, error=str(error))
        except Exception:  # a defect met with one object is not a reason to keep all the others
            _log.exception("the removal of garbage failed", garbage=what)

    async def _mark(self, claim: Claim, uid: str) -> None:
        patch = {"metadata": {"uid": claim.uid, "annotations": {labels.WORKSPACE_SEEN: uid}}}
        await self._client.patch(claim.kind.resource, claim.name, patch)

    async def _delete_instance(self, instance: Instance) -> None:
        await self._cloud.delete(instance)
        _log.info("deleted an instance that no claim holds", instance=instance.name, owner=instance.owner)

    async def _delete_without_instance(self, claim: Claim) -> None:
        try:
            await self._cloud.get(claim.name)
        except InstanceNotFound:
            await self._delete_claim(claim, "InstanceGone", "because its instance is gone")

    async def _delete_claim(self, claim: Claim, reason: str, words: str) -> None:
        resource, metadata = claim.kind.resource, claim.metadata
        await self._client.delete(resource, metadata.name, uid=metadata.uid)
        regarding = ObjectReference(
            api_version=resource.api_version, kind=resource.kind, name=metadata.name, uid=metadata.uid
        )
        self._recorder.event(regarding, "Warning", reason, f"deleting the {resource.kind}, {words}")
        self._metrics.disrupted(claim, GARBAGE_COLLECTED)
