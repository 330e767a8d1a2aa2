"""Kinds that the cluster may learn of later than the operator starts: their definitions are installed by somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, final

from kaito.runtime.errors import NotFound, RuntimeFault
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import Resource
from kaito.runtime.transport.rest import Rest

PERIOD = 10.0
"""Seconds between two looks for a kind that is not there."""

_log = get_logger("manager")


@final
class ServedKinds:
    """Calls functions once each, as soon as the API server serves the resources that they wait for.

    It is a server of the manager, so that it looks before the caches start: they would wait for a kind that is missing.
    """

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._waiting: list[tuple[Resource[Any], Callable[[], None]]] = []

    def add(self, resource: Resource[Any], then: Callable[[], None]) -> None:
        self._waiting.append((resource, then))

    async def start(self) -> None:
        await self._look()
        for kind in {str(resource) for resource, _ in self._waiting}:
            _log.warning("the cluster does not know a kind; it is looked for again", kind=kind)

    async def run(self) -> None:
        while self._waiting:
            await asyncio.sleep(PERIOD)
            for kind in await self._look():
                _log.info("the cluster knows a kind that was missing", kind=kind)

    async def check(self) -> None:
        """A kind that is missing makes nothing else unready."""

    async def stop(self) -> None:
        pass

    async def _look(self) -> set[str]:
        """Asks for what is missing; the kinds that are there now."""
        served = {
            resource for resource in {resource for resource, _ in self._waiting} if await self._is_served(resource)
        }
        due = [then for resource, then in self._waiting if resource in served]
        self._waiting = [(resource, then) for resource, then in self._waiting if resource not in served]
        for then in due:
            then()
        return {str(resource) for resource in served}

    async def _is_served(self, resource: Resource[Any]) -> bool:
        try:
            await self._rest.send("GET", resource.path(), query={"limit": "1"})
        except NotFound:
            return False
        except RuntimeFault:
            pass  # whatever it is, it is not that: the cache will tell
        return True
