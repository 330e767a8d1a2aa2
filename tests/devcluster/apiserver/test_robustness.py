"""Whatever is sent, the answer is an error that the client can act on, never a failure of the server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devcluster.harness import Kube

NAMESPACED = "namespaces/default/"
POD_SPEC = {
    "containers": [
        {
            "name": "c",
            "image": "x",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "1"}},
            "readinessProbe": {"httpGet": {"port": 80}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ],
    "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "nodeSelector": {"a": "b"},
}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}
SELECTOR = {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
SCHEMA = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}
VERSION = {
    "name": "v1",
    "served": True,
    "storage": True,
    "schema": {"openAPIV3Schema": SCHEMA},
    "subresources": {"scale": {"specReplicasPath": ".spec.a", "statusReplicasPath": ".status.a"}},
    "selectableFields": [{"jsonPath": ".spec.a"}],
    "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.a"}],
}
RULES = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}]
MANIFESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Pod": ("/api/v1/", "pods", {"spec": POD_SPEC}),
    "Service": ("/api/v1/", "services", {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
    "Namespace": ("/api/v1/", "namespaces", {"spec": {"finalizers": ["a.com/b"]}}),
    "Node": (
        "/api/v1/",
        "nodes",
        {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}, "status": {"capacity": {"cpu": "1"}}},
    ),
    "ConfigMap": ("/api/v1/", "configmaps", {"data": {"a": "b"}, "binaryData": {"c": "Yg=="}}),
    "Secret": ("/api/v1/", "secrets", {"data": {"a": "Yg=="}, "stringData": {"c": "d"}}),
    "Event": (
        "/api/v1/",
        "events",
        {"involvedObject": {"namespace": "default", "name": "a"}, "source": {"component": "c"}},
    ),
    "Deployment": (
        "/apis/apps/v1/",
        "deployments",
        {"spec": {"selector": SELECTOR, "template": TEMPLATE, "strategy": {}}},
    ),
    "StatefulSet": (
        "/apis/apps/v1/",
        "statefulsets",
        {"spec": {"selector": SELECTOR, "template": TEMPLATE, "volumeClaimTemplates": [{"spec": {}}]}},
    ),
    "Job": ("/apis/batch/v1/", "jobs", {"spec": {"template": {"spec": POD_SPEC | {"restartPolicy": "Never"}}}}),
    "CronJob": (
        "/apis/batch/v1/",
        "cronjobs",
        {"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": TEMPLATE}}}},
    ),
    "Lease": ("/apis/coordination.k8s.io/v1/", "leases", {"spec": {"leaseDurationSeconds": 5}}),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1/", "clusterroles", {"rules": RULES}),
    "RoleBinding": (
        "/apis/rbac.authorization.k8s.io/v1/",
        "rolebindings",
        {"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "bob"}]},
    ),
    "NetworkPolicy": (
        "/apis/networking.k8s.io/v1/",
        "networkpolicies",
        {"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 1}]}]}},
    ),
    "CustomResourceDefinition": (
        "/apis/apiextensions.k8s.io/v1/",
        "customresourcedefinitions",
        {
            "metadata": {"name": "as.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "as", "kind": "A", "shortNames": ["aa"]},
                "versions": [VERSION],
            },
        },
    ),
}
CLUSTER_SCOPED = {"Namespace", "Node", "ClusterRole", "CustomResourceDefinition"}
JUNK: tuple[Any, ...] = (None, 1, -1.5, "", "junk", True, [], {}, [None], {"a": None}, [[1]])


def mutations(value: Any) -> Iterator[Any]:
    """Copies of a JSON value with one part replaced by junk."""
    for junk in JUNK:
        yield copy.deepcopy(junk)
    if isinstance(value, dict):
        for name, item in value.items():
            for mutated in mutations(item):
                yield {**value, name: mutated}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for mutated in mutations(item):
                yield [*value[:index], mutated, *value[index + 1 :]]


@pytest.mark.parametrize("kind", MANIFESTS)
async def test_mangled_manifests(kube: Kube, kind: str) -> None:
    prefix, plural, rest = MANIFESTS[kind]
    path = prefix + ("" if kind in CLUSTER_SCOPED else NAMESPACED) + plural
    manifest = {
        "apiVersion": prefix.strip("/").partition("/")[2],
        "kind": kind,
        "metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"x": "y"}, "finalizers": ["a.com/b"]},
        **rest,
    }
    assert (await kube.post(path, manifest, dryRun="All")).status == 201
    failures = []
    for body in mutations(manifest):
        answer = await kube.post(path, body, dryRun="All")
        if answer.status >= 500:
            failures.append(body)
    assert not failures, f"{len(failures)}: {failures[:3]}"


async def test_mangled_updates(kube: Kube) -> None:
    path = "/apis/example.com/v1/namespaces/default/as"
    definitions, plural, rest = MANIFESTS["CustomResourceDefinition"]
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", **rest}
    assert (await kube.post(definitions + plural, crd)).status == 201
    manifest = {"apiVersion": "example.com/v1", "kind": "A", "metadata": {"name": "a"}, "spec": {"a": "b"}}
    created = (await kube.post(path, manifest)).body
    failures = []
    for body in mutations(created):
        answers = [
            await kube.post(path, body, dryRun="All"),
            await kube.put(f"{path}/a", body, dryRun="All"),
            await kube.merge(f"{path}/a", body, dryRun="All"),
            await kube.put(f"{path}/a/scale", body, dryRun="All"),
        ]
        failures += [body for answer in answers if answer.status >= 500]
    for operations in mutations([{"op": "replace", "path": "/spec/a", "value": "z"}]):
        if (await kube.json_patch(f"{path}/a", operations, dryRun="All")).status >= 500:
            failures.append(operations)
    assert not failures, f"{len(failures)}: {failures[:3]}"


async def test_mangled_queries(kube: Kube) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    for name in ("limit", "timeoutSeconds", "watch", "resourceVersion", "labelSelector", "fieldSelector", "continue"):
        answer = await kube.get(path, **{name: "(junk"})
        assert answer.status in (200, 400, 422), name
        if name == "timeoutSeconds":
            assert (await kube.get(path, watch="1", timeoutSeconds="junk")).status == 400
