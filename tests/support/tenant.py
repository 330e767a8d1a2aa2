"""A user of Workspaces, in a namespace without controllers and kubelets for what runs there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kaito.api.defaulting import read_workspace
from kaito.api.labels import INSTANCE_TYPE, NVIDIA_GPU
from kaito.api.resources import WORKSPACES
from kaito.api.workspace import Workspace
from kaito.runtime import DEPLOYMENTS, NODES, Client, Manifest, NotFound, Resource
from support.waiting import eventually


@dataclass(frozen=True)
class Tenant:
    client: Client
    namespace: str

    async def apply(
        self,
        name: str,
        inference: Manifest | None = None,
        *,
        tuning: Manifest | None = None,
        annotations: dict[str, str] | None = None,
    ) -> Workspace:
        """A Workspace for nodes with the label ``apps: <name>``."""
        manifest = {
            "metadata": {"name": name, "annotations": annotations or {}},
            "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": name}}},
            **({"inference": inference} if inference is not None else {"tuning": tuning}),
        }
        return await self.client.create(WORKSPACES, read_workspace(manifest), namespace=self.namespace)

    @asynccontextmanager
    async def nodes(self, apps: str, **sizes: str) -> AsyncIterator[dict[str, str]]:
        """Ready GPU nodes of these sizes with that label, which no Machine has made; their names."""
        names = {key: f"{self.namespace}-{key}" for key in sizes}
        gpus = {NVIDIA_GPU: "1"}
        ready = {"type": "Ready", "status": "True"}
        for key, size in sizes.items():
            node = {
                "apiVersion": NODES.api_version,
                "kind": NODES.kind,
                "metadata": {"name": names[key], "labels": {"apps": apps, INSTANCE_TYPE: size}},
                "status": {"capacity": gpus, "allocatable": gpus, "conditions": [ready]},
            }
            await self.client.create(NODES, node)
        try:
            yield names
        finally:
            for name in names.values():
                await self.client.delete(NODES, name)

    async def change(self, resource: Resource[Any], name: str, patch: Manifest) -> Any:
        return await self.client.patch(resource, name, patch, namespace=self.namespace)

    async def find(self, resource: Resource[Any], name: str) -> Any:
        """None where it is not there."""
        try:
            return await self.client.get(resource, name, self.namespace if resource.namespaced else "")
        except NotFound:
            return None

    async def becomes(self, name: str, condition: str) -> None:
        """The Workspace's condition is True."""
        await eventually(lambda: self._holds(name, condition))

    async def serves(self, name: str) -> Manifest:
        """The Workspace's Deployment, once the Workspace succeeds because somebody says that its replica is ready."""

        async def reported() -> Manifest:
            made: Manifest | None = await self.find(DEPLOYMENTS, name)
            assert made is not None
            generation = made["metadata"]["generation"]
            if made.get("status", {}).get("observedGeneration") != generation:
                counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 1)
                patch = {"status": {"observedGeneration": generation, **counts}}
                await self.client.patch(DEPLOYMENTS, name, patch, namespace=self.namespace, subresource="status")
            await self._holds(name, "WorkspaceSucceeded")
            return made

        return await eventually(reported)

    async def _holds(self, name: str, condition: str) -> bool:
        conditions = (await self.find(WORKSPACES, name)).status.conditions or ()
        states = {entry.type: (entry.status, entry.message) for entry in conditions}
        assert states.get(condition, ("",))[0] == "True", states
        return True

    async def delete(self, name: str) -> None:
        """The Workspace; return when it is gone."""
        await self.client.delete(WORKSPACES, name, self.namespace)

        async def gone() -> bool:
            return await self.find(WORKSPACES, name) is None

        await eventually(gone)
