"""Who holds which Node. Pure functions of Node manifests.

A Workspace holds a Node by a label of the Workspace's own: ``claim.kaito.sh/<namespace>.<name>``, whose value is the number
of GPUs that it takes. The pods' affinity asks for that label and nothing else, so what the label says is where they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kaito.api import labels
from kaito.controllers.workspace import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kaito.runtime import LabelSelector, Manifest

CLAIM_INDEX = "claims"
"""Index of Nodes by the keys of the claims on them."""

_NAME_LENGTH = 63


def claim_key(namespace: str, name: str) -> str:
    """The label key of the Workspace ``name``; of long names the end is a hash."""
    text = f"{namespace}.{name}"
    if len(text) > _NAME_LENGTH:
        digest = sha256(text.encode()).hexdigest()[:12]
        text = f"{text[: _NAME_LENGTH - 13]}_{digest}"
    return labels.CLAIM_PREFIX + text


def claims_of(node: Manifest) -> Iterator[tuple[str, int]]:
    """Keys of the claims on a Node, with their GPUs."""
    for key, value in facts.labels_of(node).items():
        if key.startswith(labels.CLAIM_PREFIX):
            yield key, int(value) if value.isdigit() else 0


@dataclass(frozen=True, slots=True)
class Need:
    """What a Workspace wants of a Node."""

    namespace: str
    name: str
    selector: LabelSelector
    size: str
    """Instance type; empty for any."""
    preferred: tuple[str, ...]
    """Nodes that may be of any size."""
    tolerations: Sequence[Mapping[str, Any]]
    """Of its pods."""
    gpus: int | None
    """GPUs that a pod asks for; None for all of the Node's, 0 for none."""

    @property
    def key(self) -> str:
        return claim_key(self.namespace, self.name)

    def on(self, node: Manifest) -> int:
        """The GPUs that it takes of ``node``."""
        return facts.gpus(node) if self.gpus is None else self.gpus

    def prefers(self, node: Manifest) -> bool:
        return facts.name_of(node) in self.preferred

    def made(self, node: Manifest) -> bool:
        """Whether ``node`` was made for the Workspace."""
        return self.owns(facts.labels_of(node))

    def owns(self, own: Mapping[str, str]) -> bool:
        """Whether these are the labels of a node that was made for the Workspace."""
        return (own.get(labels.WORKSPACE_NAMESPACE), own.get(labels.WORKSPACE)) == (self.namespace, self.name)

    def holds(self, node: Manifest) -> bool:
        return self.key in facts.labels_of(node)


def unschedulable(node: Manifest, need: Need) -> str:
    """Why no new pod of the Workspace can start on ``node``, to be read after its name; empty if one can."""
    if node["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    if not facts.is_ready(node):
        return "is not Ready"
    if facts.is_cordoned(node):
        return "is cordoned"
    if taint := facts.untolerated(node, need.tolerations):
        return f"has the taint {taint}, which the pods do not tolerate"
    return ""


def mismatch(node: Manifest, need: Need) -> str:
    """Why ``node`` is not what the Workspace asks for, to be read after its name; empty if it is."""
    own = facts.labels_of(node)
    if not need.selector.matches(own):
        return f"does not have the labels {need.selector}"
    if labels.WORKSPACE in own and not need.made(node):
        return f"was made for the Workspace {own.get(labels.WORKSPACE_NAMESPACE)}/{own[labels.WORKSPACE]}"
    size = own.get(labels.INSTANCE_TYPE, "")
    if need.size and size.casefold() != need.size.casefold() and not need.prefers(node):
        return f"is of size {size or 'unknown'}, not {need.size}"
    return ""


def shortage(node: Manifest, need: Need, held: int, is_live: Callable[[str], bool]) -> str:
    """Why ``node`` has no room for a pod of the Workspace, to be read after its name; empty if it has.

    ``held`` is the number of GPUs that pods hold which belong to no claim; ``is_live`` tells whether the Workspace of a
    claim is there.
    """
    others = [(key, gpus) for key, gpus in claims_of(node) if key != need.key and is_live(key)]
    holders = ", ".join(key.removeprefix(labels.CLAIM_PREFIX) for key, _ in others)
    if need.gpus == 0:
        return f"is held by the Workspace {holders}" if others else ""
    total = facts.gpus(node)
    if not total:
        return "" if need.made(node) else f"has not announced {labels.NVIDIA_GPU}: is the NVIDIA device plugin running?"
    if any(not gpus for _, gpus in others):
        return f"is held by the Workspace {holders}"
    taken = sum(gpus for _, gpus in others) + held
    wanted = max(need.on(node), 1)
    if total - taken < wanted:
        by = f"by the Workspace {holders}" if others else "by other pods"
        return f"has {total - taken} of {total} GPUs free, {wanted} are needed; {taken} are held {by}"
    return ""
