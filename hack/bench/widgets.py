"""The objects that the benchmark is about: custom resources of the size of a pod."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from hack.bench.names import GROUP, NAMESPACE, PLURAL, STAMP, VERSION
from kaito.runtime import Client, NotFound, manifest_resource
from kaito.runtime.errors import AlreadyExists
from kaito.runtime.resource import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES

WIDGETS = manifest_resource(GROUP, VERSION, "Widget", PLURAL)

_WRITERS = 16


def crd() -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"plural": PLURAL, "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def widget(number: int) -> dict[str, Any]:
    """5.6 KB, shaped like a pod: nested objects, lists, strings of every length, 1.6 KB of it managed fields."""
    containers = [
        {
            "name": f"container-{index}",
            "image": f"registry.example.com/team/service-{index}:1.{number % 40}.0",
            "env": [
                {"name": f"VARIABLE_{item}", "value": f"value of variable {item} of widget {number}"}
                for item in range(12)
            ],
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [{"name": f"volume-{item}", "mountPath": f"/var/lib/data/{item}"} for item in range(5)],
        }
        for index in range(3)
    ]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Widget",
        "metadata": {
            "name": f"widget-{number:06d}",
            "namespace": NAMESPACE,
            "labels": {"app": f"app-{number % 50}", "tier": ("web", "api", "db")[number % 3], "index": str(number)},
            "annotations": {"description": f"widget {number} of the benchmark " + "x" * 120},
            "managedFields": [_managed_fields("bench-writer", 10), _managed_fields("bench-status", 6)],
        },
        "spec": {"replicas": number % 5, "containers": containers, "nodeName": f"node-{number % 100}"},
    }


def _managed_fields(manager: str, fields: int) -> dict[str, Any]:
    owned: dict[str, Any] = {
        f'k:{{"name":"VARIABLE_{field}"}}': {".": {}, "f:name": {}, "f:value": {}} for field in range(fields)
    }
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": f"{GROUP}/{VERSION}",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"f:env": owned}}},
    }


async def load(client: Client, count: int) -> None:
    """Bring the number of widgets up to ``count``."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    for resource, body in ((CUSTOM_RESOURCE_DEFINITIONS, crd()), (NAMESPACES, namespace)):
        try:
            await client.create(resource, body)
        except AlreadyExists:
            continue
    existing = 0
    async with asyncio.timeout(30):
        while True:
            try:
                existing = len(await client.list(WIDGETS, NAMESPACE)) if count <= 2000 else await _count(client)
                break
            except NotFound:
                await asyncio.sleep(0.1)  # the new resource is not served yet
    numbers = iter(range(existing, count))

    async def write() -> None:
        for number in numbers:
            await client.create(WIDGETS, widget(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(_WRITERS):
            group.create_task(write())


async def _count(client: Client) -> int:
    answer = await client.rest.send("GET", WIDGETS.path(NAMESPACE), query={"limit": "1"})
    page: dict[str, Any] = msgspec.json.decode(answer.body)
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


async def touch(client: Client, number: int) -> None:
    """Change one widget, and say when."""
    patch = {"metadata": {"annotations": {STAMP: str(time.monotonic_ns())}}, "spec": {"touched": time.monotonic_ns()}}
    await client.patch(WIDGETS, f"widget-{number:06d}", patch, namespace=NAMESPACE)
