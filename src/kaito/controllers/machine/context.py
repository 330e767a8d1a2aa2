"""What the steps of one reconcile share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.controllers.machine import nodes

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kaito.controllers.machine.breaker import Breaker
    from kaito.controllers.machine.claims import Claim
    from kaito.controllers.machine.cloud import Cloud
    from kaito.controllers.machine.health import Trouble
    from kaito.controllers.machine.settings import Settings
    from kaito.controllers.pipeline import EventKind, Finding
    from kaito.runtime import Client, Lister, Manifest


@dataclass(slots=True)
class ClaimContext:
    """One claim as it was read, the means to act on it, and what earlier steps have found out."""

    claim: Claim
    client: Client
    node_lister: Lister[Manifest]
    """Indexed by ``nodes.POOL_INDEX``."""
    cloud: Cloud
    breaker: Breaker
    settings: Settings
    now: datetime
    emit: Callable[[EventKind, str, str], None]
    """Tell the claim's story: type (Normal or Warning), reason, note."""
    trouble: Trouble | None = None
    """What is wrong with the claim's Node."""
    node: Manifest | None = None
    """The Node that the claim became."""
    foreign: bool = False
    """Whether the instance of the claim's name turned out to be someone else's."""
    observed: dict[str, Any] = field(default_factory=dict)
    """Fields of the status to be, apart from its conditions; None removes one."""
    findings: list[Finding] = field(default_factory=list)
    """Conditions that no step answers for."""
    dropped: set[str] = field(default_factory=set)
    """Conditions that have nothing more to say."""

    @property
    def name(self) -> str:
        return self.claim.name

    @property
    def uid(self) -> str:
        return self.claim.uid

    def nodes(self) -> list[Manifest]:
        """The Nodes of the claim's instance."""
        return [stored.decode() for stored in self.node_lister.by_index(nodes.POOL_INDEX, self.name)]
