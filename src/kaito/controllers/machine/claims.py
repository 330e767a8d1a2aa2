"""Machines and NodeClaims in words that both share.

A claim asks for one node. What the two kinds call things, and by which rules they keep their conditions, is known here
and nowhere else in the controller: everything beyond reads a ``Claim``, and finds conditions under the names below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, final

from kaito.api import labels, machine, nodeclaim
from kaito.api.conditions import MACHINE_CONDITIONS, NODE_CLAIM_CONDITIONS, find
from kaito.api.machine import Machine, MachineCondition, ResourceRequirements, Taint
from kaito.api.meta import ConditionStatus, Model, ObjectMeta
from kaito.api.nodeclaim import NodeClaim, NodeClaimCondition
from kaito.api.resources import MACHINES, NODE_CLAIMS
from kaito.controllers.pipeline import Finding
from kaito.runtime import DecodeError, Resource, Stored, get_logger, parse_time

LAUNCHED, REGISTERED, INITIALIZED, READY = "Launched", "Registered", "Initialized", "Ready"
NODE_READY: Final = "NodeReady"
DRAINED: Final = "Drained"
TERMINATING: Final = "InstanceTerminating"
DRIFTED: Final = "Drifted"

ClaimObject = Machine | NodeClaim

_log = get_logger("machine")
_DURATION_PART = re.compile(r"([0-9]+)([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Said:
    """What a condition says."""

    status: ConditionStatus
    reason: str
    message: str
    changed: datetime | None
    """When it changed last, by the rules of its kind."""


class ClaimKind(Protocol):
    """What differs between the two kinds."""

    name: str
    """The controller's, which its metrics bear."""
    resource: Resource[Any]
    pool_label: tuple[str, str]
    """Label that names who asks for nodes, with its value where a claim has none."""

    def condition(self, name: str) -> str:
        """The name that the kind gives to a condition."""
        ...

    def is_ours(self, stored: Stored[Any]) -> bool:
        """Whether a claim asks kaito for its node: others may use the kind for their own ends."""
        ...

    def bare(self, stored: Stored[Any]) -> ClaimObject:
        """The claim without all but its metadata, where the rest cannot be read."""
        ...

    def conditions(
        self, claim: Claim, found: Iterable[Finding], dropped: Iterable[str], now: datetime
    ) -> tuple[Model, ...]:
        """The conditions to be: with what was ``found``, without those ``dropped``."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Claim:
    kind: ClaimKind
    object: ClaimObject

    @property
    def metadata(self) -> ObjectMeta:
        return self.object.metadata

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def launched(self) -> bool:
        return self.holds(LAUNCHED)

    @property
    def node_name(self) -> str:
        return self.object.status.node_name or ""

    @property
    def taints(self) -> tuple[Taint, ...]:
        return _taints(self.object.spec.taints)

    @property
    def startup_taints(self) -> tuple[Taint, ...]:
        return _taints(self.object.spec.startup_taints)

    @property
    def resources(self) -> ResourceRequirements:
        return self.object.spec.resources or ResourceRequirements()

    @property
    def max_pods(self) -> int | None:
        """What the kubelet's settings say, in the kind that has them."""
        spec = self.object.spec
        return spec.kubelet.max_pods if isinstance(spec, machine.MachineSpec) and spec.kubelet else None

    @property
    def termination_grace(self) -> timedelta | None:
        """The longest that draining may take, in the kind that can say so."""
        spec = self.object.spec
        text = spec.termination_grace_period if isinstance(spec, nodeclaim.NodeClaimSpec) else None
        return _duration(text) if text else None

    def requirement(self, key: str) -> tuple[str, ...]:
        """The values of the ``In`` requirement on ``key``, in order; empty if there is none."""
        terms = self.object.spec.requirements or ()
        return next((term.values or () for term in terms if term.key == key and term.operator == "In"), ())

    def created(self, now: datetime) -> datetime:
        text = self.metadata.creation_timestamp
        return parse_time(text) if text else now

    def said(self, name: str) -> Said | None:
        conditions: tuple[MachineCondition | NodeClaimCondition, ...] = self.object.status.conditions or ()
        found = find(conditions, self.kind.condition(name))
        if found is None:
            return None
        changed = parse_time(found.last_transition_time) if found.last_transition_time else None
        return Said(found.status, found.reason or "", found.message or "", changed)

    def holds(self, name: str) -> bool:
        said = self.said(name)
        return said is not None and said.status == "True"

    def since(self, name: str, now: datetime) -> timedelta:
        """How long the condition has said what it says; nothing where it says nothing."""
        said = self.said(name)
        return now - said.changed if said is not None and said.changed is not None else timedelta(0)


@final
class MachineKind:
    name = "machine"
    resource: Resource[Any] = MACHINES
    pool_label = (labels.PROVISIONER_NAME, labels.PROVISIONER_DEFAULT)
    _names: Mapping[str, str] = {
        LAUNCHED: machine.LAUNCHED,
        REGISTERED: machine.REGISTERED,
        INITIALIZED: machine.INITIALIZED,
        DRIFTED: "MachineDrifted",
    }
    _living = (*MACHINE_CONDITIONS.dependents, MACHINE_CONDITIONS.summary)

    def condition(self, name: str) -> str:
        return self._names.get(name, name)

    def is_ours(self, stored: Stored[Any]) -> bool:
        return _labelled(stored) or labels.TERMINATION_FINALIZER in stored.meta.finalizers

    def bare(self, stored: Stored[Any]) -> ClaimObject:
        return Machine(metadata=_metadata(stored))

    def conditions(
        self, claim: Claim, found: Iterable[Finding], dropped: Iterable[str], now: datetime
    ) -> tuple[Model, ...]:
        gone = {self.condition(name) for name in dropped}
        present = [entry for entry in _machine_conditions(claim) if entry.type not in gone]
        return MACHINE_CONDITIONS.update(present, map(self._condition, found), now=now)

    def _condition(self, found: Finding) -> MachineCondition:
        """One that Ready rests on says nothing more once it holds."""
        type_ = self.condition(found.type)
        living = type_ in self._living
        if living and found.status == "True":
            return MachineCondition(type=type_, status="True")
        made = MachineCondition(type=type_, status=found.status, reason=found.reason, message=found.message)
        return made if living else made.model_copy(update={"severity": "Info"})


@final
class NodeClaimKind:
    name = "nodeclaim"
    resource: Resource[Any] = NODE_CLAIMS
    pool_label = (labels.NODE_POOL, labels.NODE_POOL_DEFAULT)

    def condition(self, name: str) -> str:
        return name

    def is_ours(self, stored: Stored[Any]) -> bool:
        """The finalizer alone says nothing: other provisioners put the same one on theirs."""
        if _labelled(stored) or stored.meta.annotations.get(labels.MANAGED) == "true":
            return True
        reference = (stored.resource.decode(stored.data).spec or nodeclaim.NodeClaimSpec()).node_class_ref
        ours = (nodeclaim.NODE_CLASS_GROUP, nodeclaim.NODE_CLASS_KIND)
        return reference is not None and (reference.group, reference.kind) == ours

    def bare(self, stored: Stored[Any]) -> ClaimObject:
        return NodeClaim(metadata=_metadata(stored))

    def conditions(
        self, claim: Claim, found: Iterable[Finding], dropped: Iterable[str], now: datetime
    ) -> tuple[Model, ...]:
        gone = set(dropped)
        present = [entry for entry in _node_claim_conditions(claim) if entry.type not in gone]
        made = (self._condition(claim, entry) for entry in found)
        return NODE_CLAIM_CONDITIONS.update(
            present, made, generation=claim.metadata.generation, created=claim.created(now), now=now
        )

    def _condition(self, claim: Claim, found: Finding) -> NodeClaimCondition:
        """What has never held yet is Unknown: it is False once it has been lost."""
        if found.status == "True" and found.type in (LAUNCHED, REGISTERED, INITIALIZED, READY):
            return NodeClaimCondition(type=found.type, status="True", reason=found.type)
        status = found.status
        said = claim.said(found.type)
        if found.type in (REGISTERED, INITIALIZED) and (said is None or said.status == "Unknown"):
            status = "Unknown"
        reason, message = found.reason.removeprefix("Machine"), found.message.replace("Machine is", "NodeClaim is", 1)
        return NodeClaimCondition(type=found.type, status=status, reason=reason, message=message)


MACHINE: Final[ClaimKind] = MachineKind()
NODE_CLAIM: Final[ClaimKind] = NodeClaimKind()
KINDS: Final[Mapping[str, ClaimKind]] = {kind.name: kind for kind in (MACHINE, NODE_CLAIM)}


def readable(kind: ClaimKind, stored: Iterable[Stored[Any]]) -> Iterator[Claim]:
    """The claims among ``stored`` that are ours and can be read: one that cannot does not stand in the way of the others."""
    for each in stored:
        try:
            if kind.is_ours(each):
                yield Claim(kind, each.decode())
        except (DecodeError, ValueError) as error:
            _log.warning("a claim cannot be read", kind=kind.name, claim=each.key.name, error=str(error))


def _metadata(stored: Stored[Any]) -> ObjectMeta:
    meta = stored.meta
    return ObjectMeta(
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        creation_timestamp=meta.creation_timestamp,
        deletion_timestamp=meta.deletion_timestamp,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
    )


def _labelled(stored: Stored[Any]) -> bool:
    return labels.WORKSPACE in stored.labels or labels.RAG_ENGINE in stored.labels


def _machine_conditions(claim: Claim) -> tuple[MachineCondition, ...]:
    assert isinstance(claim.object, Machine)
    return claim.object.status.conditions or ()


def _node_claim_conditions(claim: Claim) -> tuple[NodeClaimCondition, ...]:
    assert isinstance(claim.object, NodeClaim)
    return claim.object.status.conditions or ()


def _taints(taints: Iterable[Taint | nodeclaim.NodeClaimTaint] | None) -> tuple[Taint, ...]:
    return tuple(Taint(key=taint.key, value=taint.value, effect=taint.effect) for taint in taints or ())


def _duration(text: str) -> timedelta:
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text)))
