"""A handler's place at an informer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, final

from kaito.runtime.objects.events import Event, EventType, Handler
from kaito.runtime.objects.resource import Resource
from kaito.runtime.objects.stored import Stored


@final
class Registration:
    """A handler's place at an informer.

    What is in the store when it registers is handed over in slices, object by object; an event of an object that is yet to
    be handed over is its addition, so that the handler sees each object's story in order.
    """

    __slots__ = ("_done", "_pending", "_unregister", "handler", "resource")

    def __init__(
        self,
        handler: Handler,
        resource: Resource[Any],
        there: Iterable[Stored[Any]],
        unregister: Callable[[Registration], None],
    ) -> None:
        self.handler: Handler | None = handler
        self.resource = resource
        self._pending = {stored.key: stored for stored in there}
        self._unregister = unregister
        self._done = asyncio.Event()

    def remove(self) -> None:
        """The handler is not called again. Idempotent."""
        self.handler = None
        self._pending.clear()
        self._done.set()
        self._unregister(self)

    async def caught_up(self) -> None:
        """Return once everything that was there has been handed over, or it has been removed."""
        await self._done.wait()

    def told(self, event: Event[Any]) -> Event[Any] | None:
        """What the handler is to hear of a change."""
        if self._pending and self._pending.pop(event.current.key, None) is not None:
            if event.type is EventType.DELETED:
                return None
            event = Event(EventType.ADDED, new=event.new)
        return event.read_as(self.resource)

    def next(self) -> Event[Any] | None:
        """The next object to hand over; None once there is none left."""
        for key in self._pending:
            return Event(EventType.ADDED, new=self._pending.pop(key), initial=True).read_as(self.resource)
        self._done.set()
        return None
