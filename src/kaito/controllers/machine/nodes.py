"""Nodes of instances. Pure functions of Node manifests, and what an event of one concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.api.quantity import Quantity
from kaito.runtime import Key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.machine import Taint
    from kaito.runtime import Event, Manifest, Stored

POOL_INDEX = "agent-pool"
"""Index of Nodes by the name of their agent pool, which is that of their Machine."""

EPHEMERAL_TAINTS = (
    ("node.kubernetes.io/not-ready", "", "NoSchedule"),
    ("node.kubernetes.io/unreachable", "", "NoSchedule"),
    ("node.cloudprovider.kubernetes.io/uninitialized", "true", "NoSchedule"),
)
"""Taints (key, value, effect) that every new node carries for a while."""


def pools_of(node: Stored[Manifest]) -> Iterable[str]:
    # Nobody but AKS can set this label; those that kaito asks for can be changed with the pool.
    pool = node.labels.get(labels.AKS_AGENT_POOL)
    return (pool,) if pool else ()


def made_by_kaito(node: Stored[Manifest]) -> bool:
    """Whether the Node is of an instance that was made for a claim of kaito's."""
    known = (labels.WORKSPACE, labels.RAG_ENGINE, labels.NODE_CLASS, labels.MACHINE_UID)
    return any(label in node.labels for label in known)


def is_ours(node: Stored[Manifest]) -> bool:
    """Whether the Node was registered, too: others put the same finalizer on theirs."""
    return made_by_kaito(node) and labels.TERMINATION_FINALIZER in node.meta.finalizers


def claim_of(node: Stored[Manifest]) -> Iterable[Key]:
    return [Key("", pool) for pool in pools_of(node)]


def matters(event: Event[Any]) -> bool:
    """Whether an event changes anything that the controller looks at; heartbeats do not.

    Neither do the nodes of the first list: every Machine is looked at once then, whatever the nodes are.
    """
    if event.initial:
        return False
    if event.old is None or event.new is None:
        return True
    return _facts(event.old) != _facts(event.new)


def _facts(stored: Stored[Manifest]) -> tuple[object, ...]:
    node = stored.peek()
    metadata, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    return (
        stored.labels,
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
        spec.get("providerID"),
        spec.get("taints"),
        status.get("capacity"),
        status.get("allocatable"),
        is_ready(node),
    )


def name_of(node: Manifest) -> str:
    name: str = node["metadata"]["name"]
    return name


def label(node: Manifest, key: str) -> str | None:
    value: str | None = (node["metadata"].get("labels") or {}).get(key)
    return value


def is_deleting(node: Manifest) -> bool:
    return bool(node["metadata"].get("deletionTimestamp"))


def is_ready(node: Manifest) -> bool:
    return bool(ready_condition(node).get("status") == "True")


def ready_condition(node: Manifest) -> dict[str, Any]:
    """Empty for a Node that has none."""
    conditions = node.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def provider_id(node: Manifest) -> str:
    """The instance behind the Node; empty until the cloud's controller has named it."""
    return node.get("spec", {}).get("providerID") or ""


def taints(node: Manifest) -> set[tuple[str, str, str]]:
    """Key, value and effect of each taint."""
    found = node.get("spec", {}).get("taints") or ()
    return {(taint["key"], taint.get("value") or "", taint["effect"]) for taint in found}


def startup_taint_left(node: Manifest, wanted: Iterable[Taint]) -> str:
    """The first of ``wanted`` that the Node still carries, whatever its value, as ``key:effect``; empty if none."""
    carried = {(key, effect) for key, _, effect in taints(node)}
    return next((f"{taint.key}:{taint.effect}" for taint in wanted if (taint.key, taint.effect) in carried), "")


def ephemeral_taint_left(node: Manifest) -> str:
    """The first ephemeral taint that the Node carries, as ``key:effect``; empty if none."""
    carried = taints(node)
    return next((f"{taint[0]}:{taint[2]}" for taint in EPHEMERAL_TAINTS if taint in carried), "")


def resource_missing(node: Manifest, requested: Iterable[str]) -> str:
    """The first of the ``requested`` resources that pods cannot use on the Node yet; empty if none."""
    allocatable = node.get("status", {}).get("allocatable") or {}
    return next((name for name in requested if not Quantity.parse(allocatable.get(name, 0))), "")
