"""A namespace of a cluster in which workloads live, and the objects to put there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from kaito.runtime import PODS, REPLICA_SETS, Client, Manifest, NotFound, Resource
from support.waiting import eventually


@dataclass(frozen=True)
class Living:
    """One namespace of a cluster whose controllers run."""

    client: Client
    namespace: str

    async def create(self, resource: Resource[Manifest], body: Manifest) -> Manifest:
        full = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return await self.client.create(resource, full, namespace=self.namespace)

    async def get(self, resource: Resource[Manifest], name: str) -> Manifest:
        return await self.client.get(resource, name, self.namespace if resource.namespaced else "")

    async def list(self, resource: Resource[Manifest], **labels: str) -> list[Manifest]:
        return await self.client.list(resource, self.namespace, labels=labels)

    async def patch(self, resource: Resource[Manifest], name: str, patch: dict[str, Any]) -> Manifest:
        return await self.client.patch(resource, name, patch, namespace=self.namespace)

    async def delete(self, resource: Resource[Manifest], name: str, propagation: str | None = None) -> None:
        await self.client.delete(resource, name, self.namespace, propagation=propagation)

    async def until(
        self, resource: Resource[Manifest], name: str, condition: Callable[[Manifest], Any], *, deadline: float = 20.0
    ) -> Manifest:
        """The object once it is there and ``condition`` holds for it; the last one seen is in the error if it never does."""
        seen: Manifest = {}

        async def probe() -> bool:
            seen.clear()
            try:
                seen.update(await self.get(resource, name))
            except NotFound:
                return False
            return bool(condition(seen))

        try:
            await eventually(probe, deadline=deadline)
        except AssertionError as error:
            raise AssertionError(f"{resource.kind} {name} stayed: {seen.get('spec')} {seen.get('status')}") from error
        return seen

    async def gone(self, resource: Resource[Manifest], name: str) -> None:
        async def probe() -> bool:
            try:
                await self.get(resource, name)
            except NotFound:
                return True
            return False

        await eventually(probe)

    async def none_left(self, resource: Resource[Manifest], **labels: str) -> None:
        async def probe() -> bool:
            return not await self.list(resource, **labels)

        await eventually(probe)

    async def until_true(self, probe: Callable[[], Awaitable[Any]]) -> None:
        await eventually(probe)

    async def pods(self, app: str) -> list[Manifest]:
        return await self.list(PODS, app=app)

    async def sets(self, app: str) -> list[Manifest]:
        return await self.list(REPLICA_SETS, app=app)


def template(app: str, image: str = "nginx:1", **spec: Any) -> Manifest:
    annotations = spec.pop("annotations", None)
    metadata: Manifest = {"labels": {"app": app}}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": image}], **spec}}


def workload(app: str, replicas: int = 1, **spec: Any) -> Manifest:
    """A Deployment, ReplicaSet or StatefulSet."""
    return {
        "metadata": {"name": app},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": app}},
            "template": template(app),
            **spec,
        },
    }


def is_ready(obj: Manifest) -> bool:
    """A pod or node whose condition Ready is True."""
    return any(item["type"] == "Ready" and item["status"] == "True" for item in obj["status"].get("conditions", ()))


def rolled_out(deployment: Manifest) -> bool:
    """What ``kubectl rollout status`` waits for."""
    status, spec = deployment.get("status", {}), deployment["spec"]
    return (
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == spec["replicas"]
        and status.get("replicas", 0) == spec["replicas"]
        and status.get("availableReplicas", 0) == spec["replicas"]
    )
