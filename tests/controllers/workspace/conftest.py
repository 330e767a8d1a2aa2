"""A cluster in a dictionary: the runtime's stores and listers, and a client that writes to them at once."""

from __future__ import annotations

import itertools
import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from kaito.api.resources import WORKSPACES
from kaito.controllers.workspace import watches
from kaito.controllers.workspace.claims import CLAIM_INDEX
from kaito.controllers.workspace.configs import ConfigMaps
from kaito.controllers.workspace.context import Caches
from kaito.controllers.workspace.kinds import Orders
from kaito.controllers.workspace.metrics import PHASE, WorkspaceMetrics, phase_entered
from kaito.controllers.workspace.orders import MACHINE_SOURCE, NODE_CLAIM_SOURCE, SOURCES
from kaito.controllers.workspace.reconciler import WorkspaceReconciler
from kaito.controllers.workspace.settings import Settings
from kaito.controllers.workspace.upgrades import Upgrades
from kaito.models import Catalogue
from kaito.runtime import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    AlreadyExists,
    Conflict,
    Invalid,
    Key,
    Lister,
    NotFound,
    ObjectReference,
    PatchType,
    Request,
    Resource,
    Result,
    Stored,
    format_time,
)
from kaito.runtime.cache.store import Store

SAMPLES = Path(__file__).parents[3] / "config" / "samples"
MACHINES = MACHINE_SOURCE.resource
WATCHED = (
    WORKSPACES,
    MACHINES,
    NODE_CLAIM_SOURCE.resource,
    NODES,
    PODS,
    DEPLOYMENTS,
    STATEFUL_SETS,
    JOBS,
    SERVICES,
    CONTROLLER_REVISIONS,
    CONFIG_MAPS,
)
START = "2024-11-16T12:00:00Z"


class Clock:
    def __init__(self) -> None:
        self.moment = datetime(2024, 11, 16, 12, tzinfo=UTC)

    def now(self) -> datetime:
        self.moment += timedelta(milliseconds=1)
        return self.moment

    def advance(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        return self.moment.timestamp()


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def event(self, regarding: ObjectReference, kind: str, reason: str, note: str, **_: Any) -> None:
        assert (regarding.kind, bool(regarding.uid)) == ("Workspace", True)
        self.events.append((kind, reason, note))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.events]


def raise_index_error(error: Exception) -> None:
    raise error


class Cluster:
    """Doubles as the client. ``writes`` records ``(verb, plural, name, subresource)``."""

    def __init__(self) -> None:
        self._stores = {resource: Store(resource, on_index_error=raise_index_error) for resource in WATCHED}
        self._numbers = itertools.count(1)
        self.writes: list[tuple[str, str, str, str]] = []
        self.refuse: dict[tuple[str, str], Exception] = {}
        """Errors to raise by (verb, plural); of dry runs the verb is ``rehearse``."""
        self.rehearsed: list[tuple[str, str]] = []
        """(plural, name) of dry runs."""
        self.mutate: Any = None
        """What a webhook makes of a manifest that is written: a function of resource and manifest."""
        for name, function in watches.INDEXES.items():
            self._stores[WORKSPACES].add_index(name, function)
        self._stores[WORKSPACES].add_index(PHASE, phase_entered)
        self._stores[NODES].add_index(CLAIM_INDEX, watches.claims_on)
        for resource in (DEPLOYMENTS, STATEFUL_SETS):
            self._stores[resource].add_index(watches.UPGRADING, watches.upgrading)
        self.blind: set[Resource[Any]] = set()
        """Resources of which the cache has not heard anything yet."""

    def lister(self, resource: Resource[Any]) -> Lister[Any]:
        store = Store(resource, on_index_error=raise_index_error) if resource in self.blind else self._stores[resource]
        return Lister(store, lambda: None)

    # What a test does to the cluster

    def put(self, resource: Resource[Any], manifest: dict[str, Any]) -> dict[str, Any]:
        """Store an object as it is, apart from what the server always sets."""
        manifest = deepcopy(manifest)
        manifest.setdefault("apiVersion", resource.api_version)
        manifest.setdefault("kind", resource.kind)
        metadata = manifest.setdefault("metadata", {})
        if resource.namespaced:
            metadata.setdefault("namespace", "default")
        number = next(self._numbers)
        metadata.setdefault("uid", f"uid-{number}")
        metadata.setdefault("generation", 1)
        metadata.setdefault("creationTimestamp", START)
        metadata["resourceVersion"] = str(number)
        self._stores[resource].upsert(Stored(resource, json.dumps(manifest).encode()))
        return manifest

    def read(self, resource: Resource[Any], name: str, namespace: str = "default") -> dict[str, Any]:
        stored = self._stores[resource].get(Key(namespace if resource.namespaced else "", name))
        if stored is None:
            raise NotFound(f'{resource.group_resource} "{name}" not found')
        manifest: dict[str, Any] = json.loads(stored.data)
        return manifest

    def edit(self, resource: Resource[Any], name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return self._merge(resource, self.read(resource, name), patch)

    def remove(self, resource: Resource[Any], name: str) -> None:
        manifest = self.read(resource, name)
        manifest["metadata"]["resourceVersion"] = str(next(self._numbers))
        self._stores[resource].remove(Stored(resource, json.dumps(manifest).encode()))

    def names(self, resource: Resource[Any]) -> list[str]:
        return sorted(stored.key.name for stored in self._stores[resource].snapshot())

    # What the controller does to it

    def _written(self, verb: str, resource: Resource[Any], name: str, subresource: str = "") -> None:
        if error := self.refuse.get((verb, resource.plural)):
            raise error
        self.writes.append((verb, resource.plural, name, subresource))

    async def get(self, resource: Resource[Any], name: str, namespace: str = "") -> Any:
        return self._decode(resource, self.read(resource, name, namespace or "default"))

    async def list(
        self, resource: Resource[Any], namespace: str = "", *, labels: Any = None, fields: Any = None
    ) -> Any:
        found = Lister(self._stores[resource], lambda: None).list(namespace, labels=labels)
        if fields is None:
            return found
        _, _, node = str(fields).partition("=")
        return [item for item in found if item["spec"].get("nodeName") == node]

    def with_options(self, *, dry_run: bool, field_validation: str) -> Rehearsal:
        assert (dry_run, field_validation) == (True, "Strict")
        return Rehearsal(self)

    async def create(self, resource: Resource[Any], obj: Any, *, namespace: str = "", dry_run: bool = False) -> Any:
        manifest = json.loads(resource.encode(obj))
        name = manifest["metadata"]["name"]
        key = Key(namespace if resource.namespaced else "", name)
        if self._stores[resource].get(key) is not None:
            raise AlreadyExists(f'{resource.group_resource} "{name}" already exists')
        if dry_run:
            self.rehearsed.append((resource.plural, name))
            if error := self.refuse.get(("rehearse", resource.plural)):
                raise error
            return obj
        self._written("create", resource, name)
        if namespace:
            manifest["metadata"]["namespace"] = namespace
        if self.mutate is not None:
            self.mutate(resource, manifest)
        return self._decode(resource, self.put(resource, manifest))

    async def update(self, resource: Resource[Any], obj: Any) -> Any:
        manifest = json.loads(resource.encode(obj))
        live = self.read(resource, manifest["metadata"]["name"])
        if live["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified")
        self._written("update", resource, manifest["metadata"]["name"])
        manifest["metadata"]["generation"] += manifest.get("spec") != live.get("spec")
        return self._decode(resource, self.put(resource, manifest))

    async def patch(
        self,
        resource: Resource[Any],
        name: str,
        patch: Any,
        *,
        namespace: str = "",
        subresource: str = "",
        kind: PatchType = PatchType.MERGE,
    ) -> Any:
        live = self.read(resource, name, namespace or "default")
        if kind is PatchType.JSON:
            merge: dict[str, Any] = {}
            for operation in patch:
                value = live["metadata"].get(operation["path"].removeprefix("/metadata/"))
                if operation["op"] == "test" and value != operation["value"]:
                    raise Invalid("test failed")
                if operation["op"] == "add":
                    merge = {"metadata": {"finalizers": operation["value"]}}
            patch = merge
        else:
            given = patch.get("metadata") or {}
            for field in ("uid", "resourceVersion"):
                if given.get(field) and given[field] != live["metadata"][field]:
                    raise Conflict(f"{field} differs")
        self._written("patch", resource, name, subresource)
        if subresource == "status":
            patch = {"status": patch["status"]}
        return self._decode(resource, self._merge(resource, live, patch))

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str = "",
        *,
        uid: str | None = None,
        propagation: str | None = None,
    ) -> None:
        manifest = self.read(resource, name, namespace or "default")
        if uid is not None and manifest["metadata"]["uid"] != uid:
            raise Conflict("uid differs")
        self._written("delete", resource, name)
        if manifest["metadata"].get("finalizers"):
            self.edit(resource, name, {"metadata": {"deletionTimestamp": "2024-11-16T12:00:00Z"}})
        else:
            self.remove(resource, name)

    def _merge(self, resource: Resource[Any], live: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
        merged = merge_patch(live, patch)
        if self.mutate is not None and "spec" in patch:
            self.mutate(resource, merged)
        without = [{**manifest, "metadata": None, "status": None} for manifest in (live, merged)]
        if without[0] != without[1] or "deletionTimestamp" in patch.get("metadata", {}):
            merged["metadata"]["generation"] += 1
        written = self.put(resource, merged)
        metadata = written["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.remove(resource, metadata["name"])
        return written

    def _decode(self, resource: Resource[Any], manifest: dict[str, Any]) -> Any:
        return resource.decode(json.dumps(manifest).encode())


class Rehearsal:
    """The cluster as a client of dry runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def create(self, resource: Resource[Any], obj: Any, *, namespace: str = "") -> Any:
        return await self._cluster.create(resource, obj, namespace=namespace, dry_run=True)


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def ready_condition(ready: bool, since: datetime) -> dict[str, str]:
    return {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": format_time(since)}


class Harness:
    """A reconciler over a cluster, and the parts of the world that others play."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.recorder = Recorder()
        self.settings = Settings()
        self.clock = Clock()
        self.upgrades: Upgrades | None = None
        """What a reconciler remembers from one reconcile to the next; None: nothing."""
        self.registry = CollectorRegistry()
        self.metrics = WorkspaceMetrics(self.registry)
        self.has_kind = True
        """Whether the cluster knows the kind that nodes are asked for with."""

    def caches(self) -> Caches:
        lister, source = self.cluster.lister, SOURCES[self.settings.source]
        return Caches(
            workspaces=lister(WORKSPACES),
            orders=Orders(lister(source.resource) if source is not None and self.has_kind else None),
            nodes=lister(NODES),
            pods=lister(PODS),
            deployments=lister(DEPLOYMENTS),
            stateful_sets=lister(STATEFUL_SETS),
            jobs=lister(JOBS),
            services=lister(SERVICES),
            revisions=lister(CONTROLLER_REVISIONS),
        )

    def reconciler(self) -> WorkspaceReconciler:
        """A new one each time: a reconciler must not need to remember anything."""
        return WorkspaceReconciler(
            self.cluster,
            self.caches(),
            ConfigMaps(self.cluster, self.cluster.lister(CONFIG_MAPS)),
            self.recorder,
            self.clock,
            catalogue=Catalogue.default(),
            settings=self.settings,
            metrics=self.metrics,
            upgrades=self.upgrades,
        )

    async def reconcile(self, name: str = "w") -> Result | None:
        return await self.reconciler().reconcile(Request(Key("default", name)))

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return self.cluster.put(WORKSPACES, {"apiVersion": WORKSPACES.api_version, **manifest})

    def workspace(self, name: str = "w") -> dict[str, Any]:
        return self.cluster.read(WORKSPACES, name)

    def conditions(self, name: str = "w") -> dict[str, tuple[str, str]]:
        conditions = self.workspace(name).get("status", {}).get("conditions", [])
        return {condition["type"]: (condition["status"], condition["reason"]) for condition in conditions}

    def message(self, type_: str, name: str = "w") -> str:
        conditions = self.workspace(name)["status"]["conditions"]
        return str(next(condition["message"] for condition in conditions if condition["type"] == type_))

    def node(
        self, name: str, *, ready: bool = True, gpus: int = 1, spec: dict[str, Any] | None = None, **labels: str
    ) -> dict[str, Any]:
        amounts = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        return self.cluster.put(
            NODES,
            {
                "metadata": {
                    "name": name,
                    "labels": {"node.kubernetes.io/instance-type": "Standard_NC6s_v3", "apps": "phi-3"}
                    | {key.replace("__", "/"): value for key, value in labels.items()},
                },
                "spec": spec or {},
                "status": {
                    "capacity": amounts,
                    "allocatable": amounts,
                    "conditions": [ready_condition(ready, self.clock.moment)],
                },
            },
        )

    def machine_becomes(self, name: str, **conditions: str) -> None:
        entries = [
            {
                "type": type_,
                "status": status.split()[0],
                "reason": " ".join(status.split()[1:2]),
                "message": "so it says",
            }
            for type_, status in conditions.items()
        ]
        self.cluster.edit(MACHINES, name, {"status": {"conditions": entries}})

    def machine_delivers(self, name: str, node: str, *, gpus: int = 1) -> None:
        """The Machine controller's work, finished."""
        labels = self.cluster.read(MACHINES, name)["metadata"]["labels"]
        self.node(node, gpus=gpus, **labels)
        self.machine_becomes(
            name, MachineLaunched="True", MachineRegistered="True", MachineInitialized="True", Ready="True"
        )
        self.cluster.edit(MACHINES, name, {"status": {"nodeName": node}})

    def deployment_becomes(self, name: str = "w", *, ready: int = 1, **status: Any) -> None:
        generation = self.cluster.read(DEPLOYMENTS, name)["metadata"]["generation"]
        counts = {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready}
        self.cluster.edit(DEPLOYMENTS, name, {"status": counts | status})

    async def bring_up(self, manifest: dict[str, Any], name: str = "w") -> None:
        """From apply to ready, on a machine of its own."""
        self.apply(manifest)
        await self.reconcile(name)
        for index, machine in enumerate(self.cluster.names(MACHINES)):
            self.machine_delivers(machine, f"node-{index}")
        await self.reconcile(name)
        self.deployment_becomes(name, ready=manifest["resource"].get("count", 1))
        await self.reconcile(name)


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def phi3() -> dict[str, Any]:
    return {
        "metadata": {"name": "w"},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct", "accessMode": "public"}},
    }


@pytest.fixture
def sample() -> dict[str, Any]:
    """The published phi-3 example, with what the API server adds."""
    manifest: dict[str, Any] = yaml.safe_load((SAMPLES / "workspace-phi-3-mini.inference.yaml").read_text())
    manifest["apiVersion"] = WORKSPACES.api_version
    manifest["metadata"] |= {"namespace": "default", "uid": "11111111-2222-3333-4444-555555555555", "generation": 1}
    return manifest
