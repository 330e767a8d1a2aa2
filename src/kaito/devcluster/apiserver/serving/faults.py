"""Faults for tests: errors, delays and lost answers on chosen requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.wire.requests import RequestInfo
    from kaito.runtime import ApiError

When = Literal["before", "after"]


@dataclass(slots=True)
class Fault:
    """What happens to matching requests.

    First the ``delay`` (seconds), then ``error``, or with ``drop`` the connection is cut without an answer: before the
    request is carried out, or after it, so that the client cannot know.
    """

    verb: str = "*"
    """get, list, watch, create, update, patch, delete, deletecollection or ``*``."""
    resource: str = "*"
    """``plural.group``, ``plural.group/subresource`` or ``*``."""
    name: str = ""
    """Only requests for this object; ``""`` for all."""
    user: str = ""
    """Only requests of this user; ``""`` for all."""
    error: ApiError | None = None
    delay: float = 0.0
    drop: When | None = None
    count: int = 1
    """How many requests are hit; -1 for all until the fault is removed."""
    hits: int = 0

    def matches(self, info: RequestInfo, user: str) -> bool:
        if self.count == 0 or self.verb not in ("*", info.verb) or self.user not in ("", user):
            return False
        resource = f"{info.group_resource}/{info.subresource}" if info.subresource else info.group_resource
        return self.resource in ("*", resource) and self.name in ("", info.name)


class ConnectionDropped(Exception):
    """The request is to get no answer."""


class Faults:
    """The faults in force, in the order in which they were added; the first that matches applies."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        self._faults.remove(fault)

    def clear(self) -> None:
        self._faults.clear()

    async def before(self, info: RequestInfo, user: str = "") -> Fault | None:
        """Apply what precedes the request of ``user``. Raises ApiError or ConnectionDropped; returns the fault that applies."""
        fault = next((fault for fault in self._faults if fault.matches(info, user)), None)
        if fault is None:
            return None
        fault.hits += 1
        if fault.count > 0:
            fault.count -= 1
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop == "before":
            raise ConnectionDropped
        if fault.error is not None:
            raise fault.error
        return fault
