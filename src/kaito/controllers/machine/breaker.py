"""The circuit breaker of node repair: what looks like many sick nodes is more likely one sick network."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from kaito.controllers.machine import nodes
from kaito.controllers.machine.claims import LAUNCHED, READY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kaito.controllers.machine.claims import Claim
    from kaito.runtime import Lister, Manifest

NODE_UNHEALTHY = "NodeUnhealthy"
"""Reason of a False Launched condition while a sick node is replaced."""


@final
class Breaker:
    """Lets at most ``share`` of the nodes be replaced at a time, but always one; none while most Nodes of the cluster are
    not Ready, for then it is the API server that has lost sight of them."""

    def __init__(self, claims: Callable[[], Iterable[Claim]], node_lister: Lister[Manifest], share: float) -> None:
        """``claims`` gives all there are."""
        self._claims = claims
        self._nodes = node_lister
        self._share = share
        self._admitted: set[str] = set()

    def admit(self, claim: Claim) -> str:
        """Empty if the node of ``claim`` may be replaced, which counts from now on until it is Ready; else why not."""
        every = [nodes.is_ready(stored.decode()) for stored in self._nodes.stored_list()]
        sick = every.count(False)
        if sick * 2 > len(every):
            return f"{sick} of {len(every)} Nodes of the cluster are not Ready, which is unlikely to be their own fault"
        claims = {each.uid: each for each in self._claims() if not each.deleting}
        recovered = {uid for uid in self._admitted if uid not in claims or claims[uid].holds(READY)}
        replacing = (self._admitted - recovered) | {uid for uid, each in claims.items() if _being_replaced(each)}
        replacing.discard(claim.uid)
        most = max(1, int(len(claims) * self._share))
        if len(replacing) >= most:
            self._admitted -= recovered
            return (
                f"{len(replacing)} of {len(claims)} nodes are being replaced, and no more than {most} may be at a time"
            )
        self._admitted = (self._admitted - recovered) | {claim.uid}
        return ""


def _being_replaced(claim: Claim) -> bool:
    said = claim.said(LAUNCHED)
    return said is not None and said.status == "False" and said.reason == NODE_UNHEALTHY
