"""Whether the cluster knows the kind that nodes are asked for with: without it Workspaces are told what to install."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from kaito.controllers.workspace import watches
from kaito.runtime import Channel, Controller, Key, Request, Watch

if TYPE_CHECKING:
    from kaito.controllers.workspace.orders import NodeSource
    from kaito.runtime import Lister, Manager, Manifest


@final
class Orders:
    """Cached reads of Machines or NodeClaims, from the moment on that there is such a kind."""

    def __init__(self, lister: Lister[Manifest] | None = None) -> None:
        self.lister = lister
        """None while the cluster does not know the kind."""
        self.arrivals: Channel[Key] = Channel(lambda key: (key,))
        """Workspaces whose Machines have changed: a source for their controller."""

    def follow(self, manager: Manager, source: NodeSource) -> None:
        def declare() -> None:
            watch: Watch[Any] = Watch(source.resource, watches.workspace_of_order)
            manager.add(Controller("workspace-orders", self, watches=(watch,), max_concurrent=4))
            self.lister = manager.cache.lister(source.resource)

        manager.when_served(source.resource, declare)

    async def reconcile(self, request: Request) -> None:
        self.arrivals.send(request.key)
