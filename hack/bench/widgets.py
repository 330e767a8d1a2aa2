"""The objects that the benchmark is about: custom resources of the size of a pod."""

from __future__ import annotations

from hack.bench.names import NAMESPACE, WIDGET
from kaito.runtime import CUSTOM_RESOURCE_DEFINITIONS, Manifest, Resource


def surroundings() -> list[tuple[Resource[Manifest], Manifest]]:
    """What has to exist before the first widget."""
    return [(CUSTOM_RESOURCE_DEFINITIONS, _crd())]


def _crd() -> Manifest:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{WIDGET.plural}.{WIDGET.group}"},
        "spec": {
            "group": WIDGET.group,
            "scope": "Namespaced",
            "names": {
                "plural": WIDGET.plural,
                "singular": "widget",
                "kind": WIDGET.kind,
                "listKind": f"{WIDGET.kind}List",
            },
            "versions": [
                {
                    "name": WIDGET.version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def widget(number: int) -> Manifest:
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
        "apiVersion": WIDGET.api_version,
        "kind": WIDGET.kind,
        "metadata": {
            "name": WIDGET.of(number),
            "namespace": NAMESPACE,
            "labels": {"app": f"app-{number % 50}", "tier": ("web", "api", "db")[number % 3], "index": str(number)},
            "annotations": {"description": f"widget {number} of the benchmark " + "x" * 120},
            "managedFields": [_managed_fields("bench-writer", 10), _managed_fields("bench-status", 6)],
        },
        "spec": {"replicas": number % 5, "containers": containers, "nodeName": f"node-{number % 100}"},
    }


def _managed_fields(manager: str, fields: int) -> Manifest:
    owned: Manifest = {
        f'k:{{"name":"VARIABLE_{field}"}}': {".": {}, "f:name": {}, "f:value": {}} for field in range(fields)
    }
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": WIDGET.api_version,
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:containers": {"f:env": owned}}},
    }
