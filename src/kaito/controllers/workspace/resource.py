"""The resource steps: Nodes that the Workspace holds, then Nodes that it may take, then new ones for what is missing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from kaito.api import labels
from kaito.api.conditions import find
from kaito.api.workspace import MACHINE_READY, NODE_CLAIM_READY, RESOURCE_READY
from kaito.controllers.pipeline import Fail, Outcome, Proceed, Wait
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import CLAIM_INDEX, Need
from kaito.controllers.workspace.holding import claim, prepare, release
from kaito.controllers.workspace.orders import MACHINE_SOURCE, NODE_CLAIM_SOURCE, NodeSource, cut
from kaito.controllers.workspace.purchase import Purchase
from kaito.controllers.workspace.selection import Selection, describe, select
from kaito.controllers.workspace.tuning import has_ended, is_current
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.runtime import Manifest

PREFERRED = "PreferredNodesNotQualified"
RETRY = 30.0
"""Seconds until the next look at what no event tells of, such as GPUs that pods of others give back."""


class NodesStep:
    """As many Nodes as the workload needs, each held by the Workspace, with its GPUs announced."""

    condition: ClassVar[str] = ""
    pending: ClassVar[str] = ""
    failed: ClassVar[str] = ""
    source: ClassVar[NodeSource | None] = None

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        purchase = Purchase(ctx, self.source, self.failed, self.pending) if self.source is not None else None
        if purchase is not None and purchase.missing_kind:
            return Fail(self.failed, purchase.missing_kind, requeue_after=RETRY)
        need = ctx.need
        job = ctx.caches.jobs.get(ctx.name, ctx.namespace) if ctx.workspace.tuning is not None else None
        if job is not None and is_current(ctx, job) and has_ended(job):
            return self._over(ctx, need)
        held = [stored.decode() for stored in ctx.caches.nodes.by_index(CLAIM_INDEX, need.key)]
        selection = self._select(ctx, need, held, purchase)
        ctx.nodes = tuple(selection.keep)
        for node in held:
            if (name := facts.name_of(node)) in selection.lost:
                await release(ctx, node, need, selection.lost[name])
        missing = ctx.target - selection.held
        if missing < 0:
            missing = await self._shrink(ctx, need, selection)
        rejected: dict[str, str] = {}
        while missing > 0:
            kept = len(selection.keep)
            rejected = await self._take(ctx, need, selection, missing, purchase)
            # What the first node is decides how many the model needs, where the size does not say it.
            ctx.nodes = tuple(selection.keep)
            missing = ctx.target - selection.held
            if len(selection.keep) == kept:
                break
        ctx.worker_nodes = tuple(sorted(map(facts.name_of, ctx.nodes)))
        if purchase is not None:
            await purchase.give_up(selection, missing)
        if missing > 0:
            return await self._missing(ctx, need, selection, rejected, missing, purchase)
        if selection.awaited:
            return self._awaited(selection)
        return await self._prepare(ctx, need)

    def _over(self, ctx: WorkspaceContext, need: Need) -> Outcome:
        """Nothing more is run: the Nodes that are there are kept for the logs, and none is asked for."""
        ctx.nodes = tuple(stored.decode() for stored in ctx.caches.nodes.by_index(CLAIM_INDEX, need.key))
        ctx.worker_nodes = tuple(sorted(map(facts.name_of, ctx.nodes)))
        return Proceed("installNodePluginsSuccess", "the tuning job has ended; it needs no nodes any more")

    def _select(
        self, ctx: WorkspaceContext, need: Need, nodes: Iterable[Manifest], purchase: Purchase | None
    ) -> Selection:
        pods = ctx.caches.pods.by_label(labels.WORKSPACE, ctx.name, ctx.namespace)
        running = {
            str(pod["spec"].get("nodeName"))
            for pod in (stored.decode() for stored in pods)
            if (pod.get("status") or {}).get("phase") in ("Pending", "Running")
            and "deletionTimestamp" not in pod["metadata"]
        }
        return select(
            nodes,
            need,
            now=ctx.clock.now(),
            grace=ctx.settings.node_grace,
            running_on=running,
            prepared=purchase.prepared if purchase is not None else None,
        )

    async def _shrink(self, ctx: WorkspaceContext, need: Need, selection: Selection) -> int:
        """Give back what is held beyond the need: the last in order, those that are not Ready first."""
        while selection.held > ctx.target and selection.keep:
            if selection.awaited:
                name = next(iter(selection.awaited))
                node, why = ctx.caches.nodes.get(name), "is not needed"
                del selection.awaited[name]
            else:
                node, why = selection.keep.pop(), "is not needed"
            if node is not None:
                await release(ctx, node, need, why)
        return ctx.target - selection.held

    async def _take(
        self, ctx: WorkspaceContext, need: Need, selection: Selection, missing: int, purchase: Purchase | None
    ) -> dict[str, str]:
        """Hold up to ``missing`` more Nodes; why others that one would think of cannot be."""
        # Nodes that were made for others are left out by their labels alone: there may be thousands of them.
        selected = ctx.caches.nodes.stored_list(labels=need.selector)
        free = [stored for stored in selected if labels.WORKSPACE not in stored.labels or need.owns(stored.labels)]
        found = {facts.name_of(node): node for node in ctx.caches.nodes.decoded(free)}
        rejected: dict[str, str] = {}
        for name in need.preferred:
            node = found.get(name) or ctx.caches.nodes.get(name)
            if node is None:
                rejected[name] = "does not exist"
            else:
                found[name] = node
        others = self._select(ctx, need, (node for node in found.values() if not need.holds(node)), purchase)
        rejected |= others.rejected
        for node in others.candidates:
            if missing <= 0:
                break
            taken = await claim(ctx, node, need)
            if isinstance(taken, str):
                rejected[facts.name_of(node)] = taken
            else:
                selection.keep.append(taken)
                missing -= 1
        return rejected

    async def _missing(
        self,
        ctx: WorkspaceContext,
        need: Need,
        selection: Selection,
        rejected: dict[str, str],
        missing: int,
        purchase: Purchase | None,
    ) -> Outcome:
        if purchase is None:
            why = describe(rejected) or f"no node has the labels {need.selector}"
            message = f"waiting for {count(missing, 'node')} that {'matches' if missing == 1 else 'match'}: {why}"
            return Wait(self.pending or "workspaceResourceStatusNotReady", cut(message), requeue_after=RETRY)
        unusable = {name: why for name, why in rejected.items() if name in need.preferred}
        if unusable and (hold := self._hold(ctx, purchase)) > 0:
            ctx.emit("Warning", PREFERRED, describe(unusable))
            message = (
                f"preferred {describe(unusable)}; mend it, or take it out of resource.preferredNodes: in "
                f"{timedelta(seconds=round(hold))} a {purchase.source.noun} is made instead"
            )
            return Wait(PREFERRED, cut(message), requeue_after=hold)
        return await purchase.fill(missing, {**selection.lost, **unusable})

    def _hold(self, ctx: WorkspaceContext, purchase: Purchase) -> float:
        """Seconds that are left for preferred Nodes to qualify; only where nothing has been asked for or used yet."""
        if purchase.orders or ctx.nodes or ctx.workspace.status.worker_nodes:
            return 0.0
        condition = find(ctx.workspace.status.conditions, self.condition)
        if condition is None or condition.reason != PREFERRED:
            return ctx.settings.node_grace
        waited = (ctx.clock.now() - parse_time(condition.last_transition_time)).total_seconds()
        return ctx.settings.node_grace - waited

    def _awaited(self, selection: Selection) -> Wait:
        left = min(seconds for _, seconds in selection.awaited.values())
        said = describe({name: why for name, (why, _) in selection.awaited.items()})
        what = "it is replaced" if self.source is not None else "another one is looked for"
        message = f"{said}; unless it becomes Ready {what} in {timedelta(seconds=round(left))}"
        return Wait(
            self.pending or "workspaceResourceStatusNotReady",
            cut(message),
            requeue_after=max(left, 1.0),
            status="Unknown",
        )

    async def _prepare(self, ctx: WorkspaceContext, need: Need) -> Outcome:
        """Bring the NVIDIA device plug-in to the GPU nodes, and wait until it has announced their GPUs."""
        if need.gpus != 0:
            ctx.nodes = tuple([await prepare(ctx, node, need) for node in ctx.nodes])
            bare = [facts.name_of(node) for node in ctx.nodes if not facts.gpus(node)]
            if bare:
                where = f"node {bare[0]}" if len(bare) == 1 else f"nodes {', '.join(bare)}"
                message = f"waiting for the NVIDIA device plugin to announce {labels.NVIDIA_GPU} on {where}"
                return Wait("installNodePluginsPending", cut(message), status="Unknown")
            short = {
                facts.name_of(node): f"has {facts.gpus(node)} GPUs, {need.gpus} are needed"
                for node in ctx.nodes
                if need.gpus is not None and facts.gpus(node) < need.gpus
            }
            if short:
                return Fail(self.failed or "workspaceResourceStatusFailed", cut(describe(short)), requeue_after=RETRY)
        noun = self.source.noun if self.source is not None else "node"
        return Proceed("installNodePluginsSuccess", f"{noun}s plugins have been installed successfully")


class MachineStep(NodesStep):
    condition: ClassVar[str] = MACHINE_READY
    pending: ClassVar[str] = MACHINE_SOURCE.pending
    failed: ClassVar[str] = MACHINE_SOURCE.failed
    source: ClassVar[NodeSource | None] = MACHINE_SOURCE


class NodeClaimStep(NodesStep):
    condition: ClassVar[str] = NODE_CLAIM_READY
    pending: ClassVar[str] = NODE_CLAIM_SOURCE.pending
    failed: ClassVar[str] = NODE_CLAIM_SOURCE.failed
    source: ClassVar[NodeSource | None] = NODE_CLAIM_SOURCE


class ResourceStep:
    """The nodes are there, and the model fits on them."""

    condition: ClassVar[str] = RESOURCE_READY
    pending: ClassVar[str] = "workspaceResourceStatusNotReady"
    failed: ClassVar[str] = "workspaceResourceStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        serving = ctx.serving
        if serving is not None and serving.fit.problem and not ctx.bypassed:
            return Fail(self.failed, serving.fit.problem, requeue_after=RETRY)
        warnings = [
            f"node {facts.name_of(node)} reports {shortage}" for node in ctx.nodes if (shortage := facts.pressure(node))
        ]
        warning = f"; warning: {'; '.join(warnings)}" if warnings else ""
        return Proceed("workspaceResourceStatusSuccess", f"workspace resource is ready{warning}")


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
