"""On which nodes a pod may run: selectors, affinity, taints, resources. Pure.

Reasons are in kube-scheduler's words, because people and tools look for them in events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kaito.api.quantity import Quantity
from kaito.runtime import LabelSelector, Manifest, Requirement

NO_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
UNSCHEDULABLE = "node(s) were unschedulable"
UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
POD_AFFINITY = "node(s) didn't match pod affinity rules"
POD_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
_DEFAULT_PODS = Quantity.parse(110)
_ZERO = Quantity.parse(0)

Resources = dict[str, Quantity]


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node and the unfinished pods on it."""

    node: Manifest
    pods: Sequence[Manifest] = ()
    used: Resources = field(default_factory=dict)

    @staticmethod
    def of(node: Manifest, pods: Sequence[Manifest]) -> NodeView:
        used: Resources = {"pods": Quantity.parse(len(pods))}
        for pod in pods:
            for name, amount in pod_requests(pod).items():
                used[name] = used.get(name, _ZERO) + amount
        return NodeView(node, pods, used)

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        return self.node["metadata"].get("labels") or {}

    @property
    def allocatable(self) -> Mapping[str, Any]:
        status = self.node.get("status") or {}
        return status.get("allocatable") or status.get("capacity") or {}


def pod_requests(pod: Mapping[str, Any]) -> Resources:
    """What a pod asks for: its containers together, or the largest init container where that is more."""
    spec = pod["spec"]
    total: Resources = {}
    for container in spec.get("containers") or ():
        for name, amount in _requests(container).items():
            total[name] = total.get(name, _ZERO) + amount
    for container in spec.get("initContainers") or ():
        sidecar = container.get("restartPolicy") == "Always"
        for name, amount in _requests(container).items():
            total[name] = total.get(name, _ZERO) + amount if sidecar else max(total.get(name, _ZERO), amount)
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, _ZERO) + Quantity.parse(text)
    return total


def _requests(container: Mapping[str, Any]) -> Resources:
    resources = container.get("resources") or {}
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: Quantity.parse(text) for name, text in asked.items()}


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    for item in tolerations:
        if item.get("effect") and item["effect"] != taint.get("effect"):
            continue
        if item.get("key") and item["key"] != taint.get("key"):
            continue
        operator = item.get("operator") or "Equal"
        if operator == "Exists" or (item.get("key") and item.get("value", "") == taint.get("value", "")):
            return True
    return False


def untolerated(
    pod_spec: Mapping[str, Any], node: Mapping[str, Any], effects: Iterable[str]
) -> Mapping[str, Any] | None:
    """The first of the node's taints with one of ``effects`` that the pod does not tolerate."""
    wanted = set(effects)
    tolerations = pod_spec.get("tolerations") or ()
    for taint in node["spec"].get("taints") or ():
        if taint.get("effect") in wanted and not tolerates(tolerations, taint):
            found: Mapping[str, Any] = taint
            return found
    return None


def selects(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether the node has what nodeSelector and required node affinity ask for."""
    metadata = node["metadata"]
    labels = metadata.get("labels") or {}
    if not (pod_spec.get("nodeSelector") or {}).items() <= labels.items():
        return False
    required = _node_affinity(pod_spec).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term_matches(term, labels, metadata["name"]) for term in required.get("nodeSelectorTerms") or ())


def _node_affinity(pod_spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}


def _term_matches(term: Mapping[str, Any], labels: Mapping[str, str], name: str) -> bool:
    """An empty term matches nothing; all of its expressions and fields must match."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_matches(item, labels) for item in expressions) and all(
        _matches(item, {"metadata.name": name}) for item in fields
    )


def _matches(expression: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    requirement = Requirement(expression["key"], expression["operator"], tuple(expression.get("values") or ()))
    return requirement.matches(values)


def preference(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> int:
    """Sum of the weights of the preferred node affinities that the node fulfils."""
    metadata = node["metadata"]
    preferred = _node_affinity(pod_spec).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(
        int(item["weight"])
        for item in preferred
        if _term_matches(item["preference"], metadata.get("labels") or {}, metadata["name"])
    )


def repels(pod_spec: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Why the node takes no such pod, however empty it is; ``""`` if it does."""
    taint = {"key": UNSCHEDULABLE_TAINT, "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and not tolerates(pod_spec.get("tolerations") or (), taint):
        return UNSCHEDULABLE
    found = untolerated(pod_spec, node, ("NoSchedule", "NoExecute"))
    if found is not None:
        return f"node(s) had untolerated taint {{{found['key']}: {found.get('value', '')}}}"
    return "" if selects(pod_spec, node) else NO_AFFINITY


def misfits(pod: Manifest, view: NodeView, cluster: Sequence[NodeView]) -> list[str]:
    """Why the pod cannot run on the node; empty if it can. One reason, or all resources that are too few."""
    if reason := repels(pod["spec"], view.node):
        return [reason]
    short = _shortages(pod, view)
    if short:
        return short
    return _neighbours(pod, view, cluster)


def _shortages(pod: Manifest, view: NodeView) -> list[str]:
    allocatable = view.allocatable
    reasons = []
    limit = Quantity.parse(allocatable["pods"]) if "pods" in allocatable else _DEFAULT_PODS
    if view.used.get("pods", _ZERO) + Quantity.parse(1) > limit:
        reasons.append("Too many pods")
    for name, amount in sorted(pod_requests(pod).items()):
        free = Quantity.parse(allocatable.get(name, 0)) - view.used.get(name, _ZERO)
        if amount and amount > free:
            reasons.append(f"Insufficient {name}")
    return reasons


def minds_neighbours(pod_spec: Mapping[str, Any]) -> bool:
    affinity = pod_spec.get("affinity") or {}
    return "podAffinity" in affinity or "podAntiAffinity" in affinity


def _neighbours(pod: Manifest, view: NodeView, cluster: Sequence[NodeView]) -> list[str]:
    """Required affinity to, and anti-affinity against, pods of the same topology domain."""
    affinity = pod["spec"].get("affinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for term in (affinity.get("podAffinity") or {}).get(required) or ():
        known = any(_selected(term, pod, other) for node in cluster for other in node.pods)
        # The first of a group that wants to be together has nobody to join.
        first = not known and _selected(term, pod, pod)
        if not first and not _domain_has(term, pod, view, cluster):
            return [POD_AFFINITY]
    for term in (affinity.get("podAntiAffinity") or {}).get(required) or ():
        if _domain_has(term, pod, view, cluster):
            return [POD_ANTI_AFFINITY]
    return []


def _domain_has(term: Mapping[str, Any], pod: Manifest, view: NodeView, cluster: Sequence[NodeView]) -> bool:
    key = term["topologyKey"]
    domain = view.labels.get(key)
    if domain is None:
        return False
    return any(_selected(term, pod, other) for node in cluster if node.labels.get(key) == domain for other in node.pods)


def _selected(term: Mapping[str, Any], pod: Manifest, other: Manifest) -> bool:
    namespaces = term.get("namespaces") or [pod["metadata"]["namespace"]]
    selector = LabelSelector.from_object(term.get("labelSelector"))
    return (
        selector is not None
        and other["metadata"]["namespace"] in namespaces
        and selector.matches(other["metadata"].get("labels"))
    )
