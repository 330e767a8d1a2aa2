"""Whether the cluster knows the kind that nodes are asked for with: without it Workspaces are told what to install."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, final

from kaito.controllers.workspace import watches
from kaito.runtime import Channel, Controller, Key, NotFound, Request, RuntimeFault, Watch, get_logger

if TYPE_CHECKING:
    from kaito.controllers.workspace.orders import NodeSource
    from kaito.runtime import Lister, Manager, Manifest

PERIOD = 10.0
"""Seconds between two looks for a kind that is not there."""

_log = get_logger("workspace")


@final
class Orders:
    """Cached reads of Machines or NodeClaims, from the moment on that there is such a kind.

    It is a server of the manager, so that it is asked before the caches start: they would wait for a kind that is missing.
    """

    def __init__(self, lister: Lister[Manifest] | None = None) -> None:
        self.lister = lister
        """None while the cluster does not know the kind."""
        self._manager: Manager | None = None
        self._source: NodeSource | None = None
        self.arrivals: Channel[Key] = Channel(lambda key: (key,))
        """Workspaces whose Machines have changed: a source for their controller."""

    def follow(self, manager: Manager, source: NodeSource) -> None:
        self._manager, self._source = manager, source
        manager.add_server("workspace-order-kind", self)

    async def start(self) -> None:
        if await self._is_served():
            self._declare()
        else:
            assert self._source is not None
            _log.warning(
                "the cluster does not know the kind that nodes are asked for with", kind=str(self._source.resource)
            )

    async def run(self) -> None:
        """Wait for a kind that is missing."""
        while self.lister is None:
            await asyncio.sleep(PERIOD)
            if await self._is_served():
                self._declare()

    async def check(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def reconcile(self, request: Request) -> None:
        self.arrivals.send(request.key)

    async def _is_served(self) -> bool:
        assert self._manager is not None
        assert self._source is not None
        try:
            await self._manager.rest.send("GET", self._source.resource.path(), query={"limit": "1"})
        except NotFound:
            return False
        except RuntimeFault:
            return True  # whatever it is, it is not that: the cache will tell
        return True

    def _declare(self) -> None:
        manager, source = self._manager, self._source
        assert manager is not None
        assert source is not None
        watch: Watch[Any] = Watch(source.resource, watches.workspace_of_order)
        manager.add(Controller("workspace-orders", self, watches=(watch,), max_concurrent=4))
        self.lister = manager.cache.lister(source.resource)
