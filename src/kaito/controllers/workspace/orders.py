"""Orders for nodes: the Machines or NodeClaims of a Workspace, in one form. Pure, apart from reading a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.workspace import MACHINE_READY, NODE_CLAIM_READY
from kaito.controllers.workspace.manifests.order import build_machine, build_node_claim
from kaito.runtime import Manifest, Resource, manifest_resource, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from kaito.api.workspace import Workspace

MESSAGE_LIMIT = 512
"""Characters of a message that repeats what another object says."""

_OF_DELETION = ("Terminating", "Drained", "InstanceTerminating", "Ready")

Build = Callable[["Workspace", str, str], Manifest]


@dataclass(frozen=True, slots=True)
class NodeSource:
    """A kind of object that a node is asked for with."""

    resource: Resource[Manifest]
    condition: str
    """The Workspace's condition that tells of it."""
    noun: str
    """As it stands in messages."""
    steps: tuple[str, str, str]
    """Its conditions, in the order in which they become True; ``Ready`` sums them up."""
    pending: str
    failed: str
    build: Build
    """The order of a Workspace, by name and size of the OS disk."""


MACHINE_SOURCE = NodeSource(
    manifest_resource("karpenter.sh", "v1alpha5", "Machine", "machines", namespaced=False),
    MACHINE_READY,
    "machine",
    ("MachineLaunched", "MachineRegistered", "MachineInitialized"),
    "CreateMachinePending",
    "machineFailedCreation",
    build_machine,
)
NODE_CLAIM_SOURCE = NodeSource(
    manifest_resource("karpenter.sh", "v1", "NodeClaim", "nodeclaims", namespaced=False),
    NODE_CLAIM_READY,
    "nodeClaim",
    ("Launched", "Registered", "Initialized"),
    "CreateNodeClaimPending",
    "nodeClaimFailedCreation",
    build_node_claim,
)
SOURCES: Mapping[str, NodeSource | None] = {"machine": MACHINE_SOURCE, "nodeclaim": NODE_CLAIM_SOURCE, "byo": None}
"""By the name that an operator is started with; ``byo``: nodes are not made."""


@dataclass(frozen=True, slots=True)
class Order:
    """One Machine or NodeClaim."""

    source: NodeSource
    manifest: Manifest

    @property
    def name(self) -> str:
        name: str = self.manifest["metadata"]["name"]
        return name

    @property
    def uid(self) -> str:
        return str(self.manifest["metadata"].get("uid", ""))

    @property
    def deleted_at(self) -> datetime | None:
        moment = self.manifest["metadata"].get("deletionTimestamp")
        return parse_time(moment) if moment else None

    @property
    def node(self) -> str:
        """Name of its Node; empty before there is one."""
        return str((self.manifest.get("status") or {}).get("nodeName") or "")

    @property
    def ready(self) -> bool:
        condition = self._condition("Ready")
        return condition is not None and condition.get("status") == "True"

    @property
    def failure(self) -> str:
        """Why the cloud does not deliver, in its words; empty while it may."""
        launched = self._condition(self.source.steps[0])
        return _words(launched) if launched is not None and launched.get("status") == "False" else ""

    @property
    def progress(self) -> str:
        """Where it stands, in the words of its own conditions."""
        for type_ in (*self.source.steps, "Ready"):
            condition = self._condition(type_)
            if condition is None:
                return f"waiting for {type_}"
            if condition.get("status") != "True":
                return _words(condition)
        return "" if self.node else "waiting for its node"

    @property
    def obstacle(self) -> str:
        """Why a deletion takes its time, in the words of its conditions; empty where they do not say."""
        for condition in self._conditions():
            speaks = condition["type"] in _OF_DELETION and condition.get("status") != "True"
            if speaks and condition.get("message"):
                return _words(condition)
        return ""

    def belongs_to(self, workspace: Workspace) -> bool:
        own = self.manifest["metadata"].get("labels") or {}
        return all(own.get(key) == value for key, value in order_labels(workspace).items())

    def _conditions(self) -> list[Mapping[str, Any]]:
        return (self.manifest.get("status") or {}).get("conditions") or []

    def _condition(self, type_: str) -> Mapping[str, Any] | None:
        return next((condition for condition in self._conditions() if condition["type"] == type_), None)


def order_labels(workspace: Workspace) -> dict[str, str]:
    """The labels by which a Workspace finds its orders."""
    return {
        labels.WORKSPACE: workspace.metadata.name,
        labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
    }


def cut(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """``text``, of a long one the beginning and the end: a cloud's message names the error first and the advice last."""
    if len(text) <= limit:
        return text
    head = (limit - 3) * 2 // 5
    return f"{text[:head]} … {text[-(limit - 3 - head) :]}"


def _words(condition: Mapping[str, Any]) -> str:
    return ": ".join(part for part in (condition.get("reason") or condition["type"], condition.get("message")) if part)
