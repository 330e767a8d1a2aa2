"""What the steps of one reconcile share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.machine import nodes
from kaito.runtime import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from kaito.api.machine import Machine, MachineCondition
    from kaito.controllers.machine.settings import Settings
    from kaito.controllers.pipeline import EventKind
    from kaito.provisioner import CloudProvider
    from kaito.runtime import Client, Lister, Manifest


@dataclass(frozen=True, slots=True)
class Caches:
    """Cached reads of everything the controller watches."""

    machines: Lister[Machine]
    nodes: Lister[Manifest]
    """Indexed by ``nodes.POOL_INDEX``."""


@dataclass(slots=True)
class MachineContext:
    """One Machine as it was read, the means to act on it, and what earlier steps have found out."""

    machine: Machine
    client: Client
    caches: Caches
    provider: CloudProvider
    settings: Settings
    now: datetime
    emit: Callable[[EventKind, str, str], None]
    """Tell the Machine's story: type (Normal or Warning), reason, note."""
    node: Manifest | None = None
    """The Node that the Machine became."""
    observed: dict[str, Any] = field(default_factory=dict)
    """Fields of the status to be, apart from its conditions."""

    @property
    def name(self) -> str:
        return self.machine.metadata.name

    @property
    def uid(self) -> str:
        return self.machine.metadata.uid

    @property
    def created(self) -> datetime:
        text = self.machine.metadata.creation_timestamp
        return parse_time(text) if text else self.now

    def nodes(self) -> list[Manifest]:
        """The Nodes of the Machine's instance."""
        return [stored.decode() for stored in self.caches.nodes.by_index(nodes.POOL_INDEX, self.name)]

    def since(self, condition: MachineCondition) -> timedelta:
        """How long the condition has said what it says."""
        changed = condition.last_transition_time
        return self.now - parse_time(changed) if changed else timedelta(0)


def is_managed(own_labels: Mapping[str, str]) -> bool:
    """Whether a Machine with these labels is this controller's affair: others may use the kind for their own ends."""
    return labels.WORKSPACE in own_labels or labels.RAG_ENGINE in own_labels
