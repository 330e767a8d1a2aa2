"""The heartbeat of Machines: an annotation that says when their node was last seen to be well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from kaito.api import labels
from kaito.controllers.machine.claims import READY, readable
from kaito.runtime import Request, Result, RuntimeFault, format_time, get_logger

if TYPE_CHECKING:
    from kaito.controllers.machine.claims import ClaimKind
    from kaito.runtime import Client, Clock, Lister

INTERVAL = 120.0
"""Seconds."""

_log = get_logger("machine-heartbeat")


@final
class Heartbeats:
    """A reconciler of one key: each reconcile notes on every Machine whose Node is Ready that it was seen."""

    def __init__(self, client: Client, kind: ClaimKind, claims: Lister[Any], clock: Clock) -> None:
        self._client = client
        self._kind = kind
        self._claims = claims
        self._clock = clock

    async def reconcile(self, request: Request) -> Result | None:
        for claim in readable(self._kind, self._claims.stored_list()):
            if claim.deleting or not claim.holds(READY):
                continue
            value = f'"{format_time(self._clock.now())}"'
            patch = {"metadata": {"uid": claim.uid, "annotations": {labels.HEARTBEAT: value}}}
            try:
                await self._client.patch(self._kind.resource, claim.name, patch)
            except RuntimeFault as error:
                _log.warning("cannot note that a node was seen", claim=claim.name, error=str(error))
        return None
