"""The objects of a fake API server: versions, conflicts, finalizers, selections, and the history that watches follow."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from kaito.runtime.clock import Clock, format_time
from kaito.runtime.errors import AlreadyExists, BadRequest, Conflict, Expired, Invalid, NotFound
from kaito.runtime.objects.resource import Key, Manifest, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector

_KEPT = ("name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "deletionTimestamp")
"""Metadata that only the server changes."""


@dataclass(frozen=True)
class Change:
    """``old`` or ``new`` is None for an object that came or went."""

    version: int
    old: Manifest | None
    new: Manifest | None


@dataclass(frozen=True)
class Selection:
    """What a list or a watch is about."""

    namespace: str
    labels: LabelSelector
    fields: FieldSelector

    @staticmethod
    def of(namespace: str, query: Mapping[str, str]) -> Selection:
        labels = LabelSelector.parse(query.get("labelSelector", ""))
        return Selection(namespace, labels, FieldSelector.parse(query.get("fieldSelector", "")))

    def has(self, obj: Manifest | None) -> bool:
        if obj is None:
            return False
        metadata = obj["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        return self.labels.matches(metadata.get("labels")) and self.fields.matches(lambda path: _field(obj, path))

    def event(self, change: Change) -> tuple[str, Manifest] | None:
        """The event that a watch sees: an object that leaves the selection is deleted for it."""
        before, after = self.has(change.old), self.has(change.new)
        if after and change.new is not None:
            return ("MODIFIED" if before else "ADDED"), change.new
        if before and change.old is not None:
            gone = copy.deepcopy(change.new or change.old)
            gone["metadata"]["resourceVersion"] = str(change.version)
            return "DELETED", gone
        return None


def _field(obj: Manifest, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


@dataclass
class _Collection:
    objects: dict[Key, Manifest] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)


@final
class Storage:
    """Every method is one step: nobody sees half a write. What goes in and out is a copy."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._collections: dict[tuple[str, str], _Collection] = {}
        self._changed: set[asyncio.Event] = set()
        self.version = 1
        self.compacted = 0
        """Newest version that is forgotten."""

    def get(self, resource: Resource[Any], key: Key) -> Manifest:
        return copy.deepcopy(self._existing(resource, key))

    def list(self, resource: Resource[Any], selection: Selection) -> list[Manifest]:
        """In the order of their names."""
        objects = sorted(self._of(resource).objects.items())
        return [copy.deepcopy(obj) for _, obj in objects if selection.has(obj)]

    def create(self, resource: Resource[Any], namespace: str, obj: Manifest, *, dry_run: bool) -> Manifest:
        obj = _of_kind(resource, copy.deepcopy(obj))
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and (prefix := metadata.get("generateName")):
            metadata["name"] = f"{prefix}{uuid.uuid4().hex[:5]}"
        if not metadata.get("name"):
            raise Invalid(
                f"{resource.kind} is invalid: metadata.name: Required value: name or generateName is required"
            )
        if resource.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise BadRequest("the namespace of the object does not match the namespace of the request")
        if metadata.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        key = Key(namespace, metadata["name"])
        if key in self._of(resource).objects:
            raise AlreadyExists(f'{resource.group_resource} "{key.name}" already exists')
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": format_time(self._clock.now()), "generation": 1}
        metadata.pop("deletionTimestamp", None)
        return self._store(resource, key, None, obj, dry_run=dry_run)

    def change(
        self,
        resource: Resource[Any],
        key: Key,
        subresource: str,
        change: Callable[[Manifest], Manifest],
        *,
        dry_run: bool,
    ) -> Manifest:
        """``change`` is given a copy. Status is its subresource's alone, and all else is not."""
        old = self._existing(resource, key)
        new = _of_kind(resource, copy.deepcopy(change(copy.deepcopy(old))))
        metadata = new.get("metadata") or {}
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        if version and version != old["metadata"]["resourceVersion"]:
            raise Conflict(f'Operation cannot be fulfilled on {resource.group_resource} "{key.name}": it was modified')
        if uid and uid != old["metadata"]["uid"]:
            raise Conflict(f'{resource.group_resource} "{key.name}": the UID in the precondition is not the object\'s')
        if Key(metadata.get("namespace") or "", metadata.get("name") or "") != key:
            raise BadRequest(f"the name of the object does not match the name of the request: {key}")
        if subresource == "status":
            new = copy.deepcopy(old) | {"status": new.get("status")}
        else:
            new["metadata"] = metadata | {name: old["metadata"][name] for name in _KEPT if name in old["metadata"]}
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)
            if _desired(new) != _desired(old):
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        if new.get("status") is None:
            new.pop("status", None)
        if new == old:
            return copy.deepcopy(old)
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            if not dry_run:
                self._remove(resource, key)
            return new
        return self._store(resource, key, old, new, dry_run=dry_run)

    def delete(
        self, resource: Resource[Any], key: Key, options: Mapping[str, Any], *, dry_run: bool
    ) -> Manifest | None:
        """The object where finalizers keep it, None where it is gone."""
        old = self._existing(resource, key)
        preconditions = options.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if preconditions.get(name) and preconditions[name] != old["metadata"][name]:
                raise Conflict(f'{resource.group_resource} "{key.name}": the precondition on {name} is not met')
        if not old["metadata"].get("finalizers"):
            if not dry_run:
                self._remove(resource, key)
            return None
        if old["metadata"].get("deletionTimestamp"):
            return copy.deepcopy(old)
        new = copy.deepcopy(old)
        new["metadata"]["deletionTimestamp"] = format_time(self._clock.now())
        new["metadata"]["generation"] += 1
        return self._store(resource, key, old, new, dry_run=dry_run)

    def since(self, resource: Resource[Any], version: int) -> Iterator[Change]:
        """What happened after ``version``. Raises Expired."""
        if version < self.compacted:
            raise Expired(f"too old resource version: {version} ({self.compacted})")
        return (change for change in self._of(resource).history if change.version > version)

    def compact(self) -> None:
        """Forget what has happened so far."""
        self.compacted = self.version
        for collection in self._collections.values():
            collection.history.clear()

    def subscribe(self) -> asyncio.Event:
        """Set after each change, until ``unsubscribe``."""
        changed = asyncio.Event()
        self._changed.add(changed)
        return changed

    def unsubscribe(self, changed: asyncio.Event) -> None:
        self._changed.discard(changed)

    def _of(self, resource: Resource[Any]) -> _Collection:
        return self._collections.setdefault((resource.group, resource.plural), _Collection())

    def _existing(self, resource: Resource[Any], key: Key) -> Manifest:
        try:
            return self._of(resource).objects[key]
        except KeyError:
            details = {"name": key.name, "group": resource.group, "kind": resource.plural}
            raise NotFound(f'{resource.group_resource} "{key.name}" not found', details=details) from None

    def _store(
        self, resource: Resource[Any], key: Key, old: Manifest | None, new: Manifest, *, dry_run: bool
    ) -> Manifest:
        if not dry_run:
            self.version += 1
            new["metadata"]["resourceVersion"] = str(self.version)
            self._of(resource).objects[key] = new
            self._note(resource, Change(self.version, old, new))
        return copy.deepcopy(new)

    def _remove(self, resource: Resource[Any], key: Key) -> None:
        old = self._of(resource).objects.pop(key)
        self.version += 1
        self._note(resource, Change(self.version, old, None))

    def _note(self, resource: Resource[Any], change: Change) -> None:
        self._of(resource).history.append(change)
        for changed in self._changed:
            changed.set()


def _of_kind(resource: Resource[Any], obj: Any) -> Manifest:
    if not isinstance(obj, dict) or not obj.get("kind") or not obj.get("apiVersion"):
        raise BadRequest("the object has no kind or apiVersion")
    if (obj["apiVersion"], obj["kind"]) != (resource.api_version, resource.kind):
        raise BadRequest(f"{obj['kind']} in version {obj['apiVersion']} cannot be handled as a {resource}")
    return obj


def _desired(obj: Manifest) -> Manifest:
    return {name: value for name, value in obj.items() if name not in ("metadata", "status")}
