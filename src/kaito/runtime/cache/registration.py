"""Handlers at an informer: each one's place, and telling all of them what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, final

from kaito.runtime.fairness import BUDGET
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
        there: Sequence[Stored[Any]],
        unregister: Callable[[Registration], None],
    ) -> None:
        self.handler: Handler | None = handler
        self.resource = resource
        self._pending = {stored.key: stored for stored in reversed(there)}
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
        if self._pending:
            _, stored = self._pending.popitem()
            return Event(EventType.ADDED, new=stored, initial=True).read_as(self.resource)
        self._done.set()
        return None


@final
class Handlers:
    """All handlers of one informer. A handler that raises stops nothing for the others."""

    __slots__ = ("_failed", "_registrations")

    def __init__(self, failed: Callable[[Event[Any], Exception], None]) -> None:
        """``failed`` is told, inside the ``except``, of what a handler raised."""
        self._failed = failed
        self._registrations: list[Registration] = []

    def add(self, handler: Handler, resource: Resource[Any], there: Sequence[Stored[Any]]) -> Registration:
        """Hand over what is ``there``, the first slice of it now, and tell of everything from now on."""
        registration = Registration(handler, resource, there, self._remove)
        self._registrations.append(registration)
        self._hand_over(registration)
        return registration

    def _remove(self, registration: Registration) -> None:
        if registration in self._registrations:
            self._registrations.remove(registration)

    def _hand_over(self, registration: Registration) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + BUDGET
        while (event := registration.next()) is not None:
            self._call(registration, event)
            if loop.time() >= end:
                loop.call_soon(self._hand_over, registration)
                return

    def remind(self, registration: Registration, stored: Stored[Any]) -> None:
        """Tell one handler of an object again."""
        event = registration.told(Event(EventType.UPDATED, old=stored, new=stored, resync=True))
        if event is not None:
            self._call(registration, event)

    def dispatch(self, event: Event[Any] | None) -> None:
        """Tell everybody of a change; another uid is a deletion and an addition."""
        if event is None:
            return
        old, new = event.old, event.new
        if old is not None and new is not None and old.uid != new.uid:
            self._tell(Event(EventType.DELETED, old=old, final_state_unknown=True))
            self._tell(Event(EventType.ADDED, new=new))
        else:
            self._tell(event)

    def _tell(self, event: Event[Any]) -> None:
        registrations = tuple(self._registrations)
        shared = [stored for stored in (event.old, event.new) if stored is not None] if len(registrations) > 1 else ()
        for stored in shared:
            stored.share()
        for registration in registrations:
            told = registration.told(event)
            if told is not None:
                self._call(registration, told)
        for stored in shared:
            stored.unshare()

    def _call(self, registration: Registration, event: Event[Any]) -> None:
        if registration.handler is None:
            return
        try:
            registration.handler(event)
        except Exception as error:  # a handler's bug must not stop the informer for the others
            self._failed(event, error)
