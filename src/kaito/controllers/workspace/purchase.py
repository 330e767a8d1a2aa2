"""Asking for nodes, and giving back those that nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.controllers.pipeline import Fail, Stop, Wait
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import mismatch, unschedulable
from kaito.controllers.workspace.manifests.order import order_name
from kaito.controllers.workspace.orders import NodeSource, Order, cut, order_labels
from kaito.controllers.workspace.rehearsal import rehearse
from kaito.controllers.workspace.selection import describe
from kaito.runtime import AlreadyExists, NotFound

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext
    from kaito.controllers.workspace.selection import Selection

OBSTACLE_RETRY = 30.0
"""Seconds until something is looked at again that somebody else has to take out of the way."""


class Purchase:
    """The orders of one Workspace.

    They bear the names of as many slots as there are nodes to be, so there are never more than that: an order that is
    being deleted keeps its slot until it is gone, or until the grace time for nodes has passed.
    """

    def __init__(self, ctx: WorkspaceContext, source: NodeSource, failed: str, pending: str) -> None:
        self.source = source
        self._ctx = ctx
        self._failed, self._pending = failed, pending
        wanted = order_labels(ctx.workspace)
        lister = ctx.caches.orders.lister
        found = lister.by_label(labels.WORKSPACE, ctx.name) if lister is not None else ()
        self.orders = [
            Order(source, stored.decode())
            for stored in found
            if all(stored.labels.get(key) == value for key, value in wanted.items())
        ]

    @property
    def missing_kind(self) -> str:
        """Why no node can be asked for at all; empty where it can."""
        if self._ctx.caches.orders.lister is not None:
            return ""
        resource = self.source.resource
        return (
            f"the cluster does not know the kind {resource.kind} ({resource.api_version}): install its definition "
            f"(config/crd), or start the operator with --node-source byo to use nodes that exist"
        )

    @property
    def prepared(self) -> set[str] | None:
        """Of the nodes that were made for the Workspace those whose order has finished with them; None for all of them.

        A node may join, and even be Ready, before its order says so, or says which node it is.
        """
        if all(order.ready and order.node for order in self._living()):
            return None
        return {order.node for order in self._living() if order.ready}

    async def give_up(self, selection: Selection, missing: int) -> None:
        """Delete the orders of nodes that are lost, and those that are not needed while ``missing`` nodes are."""
        used = {facts.name_of(node) for node in selection.keep} | set(selection.awaited)
        orders = {order.node for order in self.orders}
        unknown = sum(facts.name_of(node) not in orders and self._ctx.need.made(node) for node in selection.keep)
        spare = [order for order in self._living() if order.node not in used]
        lost = [order for order in spare if order.node in selection.lost]
        for order in lost:
            await self._delete(order, f"node {order.node} {selection.lost[order.node]}")
        waiting = sorted(
            (order for order in spare if order not in lost), key=lambda order: (not order.ready, order.name)
        )
        # A node in use whose order does not say yet that it is its own may belong to any of those.
        surplus = waiting[max(missing, 0) + unknown :]
        for order in surplus:
            await self._delete(order, "it is not needed")
        self.orders = [order for order in self.orders if order not in lost and order not in surplus]

    async def fill(self, missing: int, told: dict[str, str]) -> Stop:
        """Ask for what is missing, and say how far it has come; ``told`` is why other nodes are not used."""
        ctx = self._ctx
        used = {facts.name_of(node) for node in ctx.nodes}
        awaited = [order for order in self._living() if order.node not in used]
        if len(awaited) < missing:
            refusal = await rehearse(ctx, self._failed) if not self.orders else None
            if refusal is not None:
                return refusal
            made = await self._create(missing - len(awaited))
            if isinstance(made, Fail):
                return made
            awaited += made
        for order in awaited:
            if order.failure:
                return Fail(self._failed, cut(f"{self.source.resource.kind} {order.name}: {order.failure}"))
        return self._await(missing, awaited, told)

    def _living(self) -> list[Order]:
        return [order for order in self.orders if order.deleted_at is None]

    async def _create(self, number: int) -> list[Order] | Fail:
        ctx, now = self._ctx, self._ctx.clock.now()
        taken = {order.name for order in self.orders}
        stuck = sum(
            order.deleted_at is not None and (now - order.deleted_at).total_seconds() > ctx.settings.node_grace
            for order in self.orders
        )
        slots = (order_name(ctx.workspace, index) for index in range(ctx.target + stuck))
        free = [name for name in slots if name not in taken]
        made: list[Order] = []
        for name in free[:number]:
            order = await self._order(name)
            if isinstance(order, Fail):
                return order
            made.append(order)
        return made

    async def _order(self, name: str) -> Order | Fail:
        ctx, kind = self._ctx, self.source.resource.kind
        manifest = self.source.build(ctx.workspace, name, ctx.disk)
        try:
            created = await ctx.client.create(self.source.resource, manifest)
        except AlreadyExists:
            order = Order(self.source, await ctx.client.get(self.source.resource, name))
            if not order.belongs_to(ctx.workspace):
                return Fail(
                    self._failed,
                    f"{kind} {name} exists already and was not made for this Workspace: delete it",
                    requeue_after=OBSTACLE_RETRY,
                )
            return order
        ctx.emit("Normal", f"{kind}Created", f"created {kind} {name} for a node of size {ctx.size}")
        return Order(self.source, created)

    def _await(self, missing: int, awaited: list[Order], told: dict[str, str]) -> Wait:
        kind = self.source.resource.kind
        said = [f"{kind} {order.name}: {self._progress(order)}" for order in awaited]
        said += [
            f"{kind} {order.name} is being deleted{f': {order.obstacle}' if order.obstacle else ''}"
            for order in self.orders
            if order.deleted_at is not None
        ]
        if told:
            said.append(describe(told))
        making = sum(not order.ready for order in awaited)
        summary = f"creating {_count(making, self.source.noun)}" if making else f"waiting for {_count(missing, 'node')}"
        # A slot that is stuck in a deletion opens by time, and a node that joined late by an event.
        return Wait(
            self._pending,
            cut("; ".join([summary, *said])),
            requeue_after=OBSTACLE_RETRY if len(awaited) < missing else None,
            status="Unknown",
        )

    def _progress(self, order: Order) -> str:
        if order.progress:
            return order.progress
        node = self._ctx.caches.nodes.get(order.node)
        if node is None:
            return f"node {order.node} does not exist"
        need = self._ctx.need
        return f"node {order.node} {mismatch(node, need) or unschedulable(node, need) or 'is being looked at'}"

    async def _delete(self, order: Order, why: str) -> None:
        kind = self.source.resource.kind
        try:
            await self._ctx.client.delete(self.source.resource, order.name, uid=order.uid)
        except NotFound:
            return
        self._ctx.emit("Normal", f"{kind}Deleted", f"asked for the deletion of {kind} {order.name}: {why}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
