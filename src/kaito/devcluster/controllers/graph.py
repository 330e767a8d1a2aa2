"""The graph of who owns whom, as garbage collection needs it: built from metadata, by uid. Pure.

``observe`` and ``forget`` are told what the watches say; both answer with the uids that are worth a look.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kaito.runtime import Key, OwnerReference, Resource, Stored

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_ABSENT_LIMIT = 5000
"""Owners that are remembered as gone; uids are never used again."""


@dataclass(slots=True)
class Node:
    """One object that the watches know."""

    uid: str
    resource: Resource[Any]
    key: Key
    owners: tuple[OwnerReference, ...] = ()
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    dependents: set[str] = field(default_factory=set)

    @property
    def awaits_dependents(self) -> bool:
        """Deleted in the foreground: it goes after those that it owns."""
        return self.deleting and FOREGROUND in self.finalizers

    @property
    def orphans_dependents(self) -> bool:
        return self.deleting and ORPHAN in self.finalizers


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the owners of an object are to it."""

    solid: tuple[str, ...] = ()
    dangling: tuple[str, ...] = ()
    """Uids of owners that do not exist."""
    waiting: tuple[str, ...] = ()
    """Uids of owners that are being deleted in the foreground."""


class Graph:
    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._waiting_for: dict[str, set[str]] = {}
        """Dependents by the uid of an owner that no watch has shown yet."""
        self._absent: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, uid: str) -> Node | None:
        return self._nodes.get(uid)

    def dependents(self, uid: str) -> list[Node]:
        node = self._nodes.get(uid)
        uids = node.dependents if node is not None else self._waiting_for.get(uid, ())
        return [self._nodes[dependent] for dependent in sorted(uids)]

    def observe(self, stored: Stored[Any]) -> list[str]:
        """An object as it is now; the uids to look at because of it."""
        node = self._nodes.get(stored.uid)
        new = node is None
        if node is None:
            node = Node(stored.uid, stored.resource, stored.key)
            node.dependents = self._waiting_for.pop(stored.uid, set())
            self._nodes[stored.uid] = node
        before = (node.owners, node.deleting, node.finalizers)
        plain = b'"ownerReferences"' not in stored.data and b'"deletionTimestamp"' not in stored.data
        if plain and before == ((), False, ()):
            return []
        meta = stored.meta
        self._link(node, meta.owner_references)
        node.deleting, node.finalizers = meta.deleting, meta.finalizers
        if not new and before == (node.owners, node.deleting, node.finalizers):
            return []
        return self._stirred(node)

    def _stirred(self, node: Node) -> list[str]:
        look = [node.uid] if node.owners or node.deleting else []
        if node.awaits_dependents:
            look += sorted(node.dependents)
        # An owner in the foreground waits for what blocks it: this object may just have ceased to, or begun to go.
        look += [owner.uid for owner in node.owners if (held := self._nodes.get(owner.uid)) and held.deleting]
        return look

    def _link(self, node: Node, owners: tuple[OwnerReference, ...]) -> None:
        if owners == node.owners:
            return
        kept = {owner.uid for owner in owners}
        for owner in node.owners:
            if owner.uid not in kept:
                self._unlink(owner.uid, node.uid)
        for owner in owners:
            held = self._nodes.get(owner.uid)
            (held.dependents if held else self._waiting_for.setdefault(owner.uid, set())).add(node.uid)
        node.owners = owners

    def _unlink(self, owner: str, dependent: str) -> None:
        held = self._nodes.get(owner)
        if held is not None:
            held.dependents.discard(dependent)
            return
        waiting = self._waiting_for.get(owner)
        if waiting is not None:
            waiting.discard(dependent)
            if not waiting:
                del self._waiting_for[owner]

    def forget(self, uid: str) -> list[str]:
        """An object that is gone; the uids to look at because of it: its dependents, and owners that waited for it."""
        self.note_absent(uid)
        node = self._nodes.pop(uid, None)
        if node is None:
            return sorted(self._waiting_for.get(uid, ()))
        for owner in node.owners:
            self._unlink(owner.uid, uid)
        if node.dependents:
            self._waiting_for[uid] = node.dependents
        return [*sorted(node.dependents), *(owner.uid for owner in node.owners if owner.uid in self._nodes)]

    def forget_resource(self, resource: Resource[Any]) -> list[str]:
        """A resource that is served no more: what is left of it is unknown, not deleted."""
        gone = [node for node in self._nodes.values() if node.resource == resource]
        for node in gone:
            del self._nodes[node.uid]
            for owner in node.owners:
                self._unlink(owner.uid, node.uid)
            if node.dependents:
                self._waiting_for[node.uid] = node.dependents
        return [uid for node in gone for uid in sorted(node.dependents)]

    def note_absent(self, uid: str) -> None:
        self._absent[uid] = None
        if len(self._absent) > _ABSENT_LIMIT:
            self._absent.popitem(last=False)

    def known_absent(self, uid: str) -> bool:
        return uid in self._absent

    def owner_node(self, dependent: Node, owner: OwnerReference) -> Node | None:
        """The owner as the watches know it, if it may own ``dependent``: it is cluster-scoped or in the same namespace."""
        held = self._nodes.get(owner.uid)
        if held is None or held.resource.kind != owner.kind or held.resource.group != owner.group:
            return None
        if held.key.name != owner.name or (held.key.namespace and held.key.namespace != dependent.key.namespace):
            return None
        return held

    def blocking(self, uid: str) -> list[Node]:
        """Dependents that keep the object from going in the foreground."""
        return [
            node
            for node in self.dependents(uid)
            if any(owner.uid == uid and owner.block_owner_deletion for owner in node.owners)
        ]


def judge(node: Node, existing: Iterable[str], waiting: Iterable[str]) -> Verdict:
    """Sort a node's owners, given the uids of those that exist and of those that wait for their dependents."""
    there, leaving = set(existing), set(waiting)
    uids = tuple(dict.fromkeys(owner.uid for owner in node.owners))
    return Verdict(
        solid=tuple(uid for uid in uids if uid in there and uid not in leaving),
        dangling=tuple(uid for uid in uids if uid not in there),
        waiting=tuple(uid for uid in uids if uid in there and uid in leaving),
    )
