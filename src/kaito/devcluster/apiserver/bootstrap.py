"""What a new cluster holds: system namespaces, roles and bindings, priority classes, the kubernetes Service and what is
behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.auth.identity import AUTHENTICATED, MASTERS, UNAUTHENTICATED
from kaito.devcluster.apiserver.strategies.services import KUBERNETES_IP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.devcluster.apiserver.objects.registry import Registry
    from kaito.devcluster.apiserver.verbs.writes import Writer

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_BOOTSTRAP_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_DISCOVERY = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]

_VIEWED: dict[str, list[str]] = {
    "": [
        "bindings",
        "configmaps",
        "endpoints",
        "events",
        "limitranges",
        "namespaces",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "pods/log",
        "pods/status",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "replicationcontrollers/status",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "services/status",
    ],
    "apps": [
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ],
    "autoscaling": ["horizontalpodautoscalers", "horizontalpodautoscalers/status"],
    "batch": ["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
    "discovery.k8s.io": ["endpointslices"],
    "networking.k8s.io": ["ingresses", "ingresses/status", "networkpolicies"],
    "policy": ["poddisruptionbudgets", "poddisruptionbudgets/status"],
}
_EDITED: dict[str, list[str]] = {
    "": [
        "configmaps",
        "events",
        "persistentvolumeclaims",
        "pods",
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
    ],
    "apps": [
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ],
    "autoscaling": ["horizontalpodautoscalers"],
    "batch": ["cronjobs", "jobs"],
    "networking.k8s.io": ["ingresses", "networkpolicies"],
    "policy": ["poddisruptionbudgets"],
}

Rules = list[dict[str, Any]]


def _rules(resources: dict[str, list[str]], verbs: list[str]) -> Rules:
    return [{"apiGroups": [group], "resources": names, "verbs": verbs} for group, names in resources.items()]


def _cluster_roles() -> dict[str, Rules]:
    edit = [
        *_rules(_VIEWED, _READ),
        {
            "apiGroups": [""],
            "resources": ["secrets", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy"],
            "verbs": _READ,
        },
        *_rules(_EDITED, _WRITE),
        {"apiGroups": [""], "resources": ["pods/eviction", "serviceaccounts/token"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": [*_READ, *_WRITE]},
    ]
    roles_of_namespace = ["roles", "rolebindings"]
    reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]
    return {
        "cluster-admin": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ],
        "admin": [
            *edit,
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": roles_of_namespace, "verbs": [*_READ, *_WRITE]},
            {"apiGroups": ["authorization.k8s.io"], "resources": ["localsubjectaccessreviews"], "verbs": ["create"]},
        ],
        "edit": edit,
        "view": _rules(_VIEWED, _READ),
        "system:basic-user": [
            {"apiGroups": ["authorization.k8s.io"], "resources": reviews, "verbs": ["create"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
        ],
        "system:discovery": [{"nonResourceURLs": [*_DISCOVERY, *_PUBLIC], "verbs": ["get"]}],
        "system:public-info-viewer": [{"nonResourceURLs": _PUBLIC, "verbs": ["get"]}],
        "system:auth-delegator": [
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
        ],
    }


_BINDINGS = {
    "cluster-admin": (MASTERS,),
    "system:basic-user": (AUTHENTICATED,),
    "system:discovery": (AUTHENTICATED,),
    "system:public-info-viewer": (AUTHENTICATED, UNAUTHENTICATED),
}


def _objects() -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Resource, namespace and object of each."""
    rbac = "rbac.authorization.k8s.io"
    for name in NAMESPACES:
        yield "namespaces", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for name, rules in _cluster_roles().items():
        yield (
            f"clusterroles.{rbac}",
            "",
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": name, "labels": _BOOTSTRAP_LABELS},
                "rules": rules,
            },
        )
    for name, groups in _BINDINGS.items():
        yield (
            f"clusterrolebindings.{rbac}",
            "",
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name, "labels": _BOOTSTRAP_LABELS},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": rbac, "kind": "Group", "name": group} for group in groups],
            },
        )
    for name, value in (("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)):
        yield (
            "priorityclasses.scheduling.k8s.io",
            "",
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": "Used for system critical pods that must run.",
            },
        )
    yield (
        "services",
        "default",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": KUBERNETES_IP, "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        },
    )


def bootstrap(registry: Registry, writer: Writer) -> None:
    for resource, namespace, obj in _objects():
        writer.create(registry.builtin(resource), obj, namespace=namespace)


def publish(registry: Registry, writer: Writer, address: str, port: int) -> None:
    """Put the server behind the kubernetes Service, where it listens now."""
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    family = "IPv6" if ":" in address else "IPv4"
    for resource, obj in (
        (
            "endpoints",
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": address}], "ports": ports}],
            },
        ),
        (
            "endpointslices.discovery.k8s.io",
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": family,
                "ports": ports,
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            },
        ),
    ):
        kind = registry.builtin(resource)
        record = kind.collection.get("default/kubernetes")
        if record is None:
            writer.create(kind, obj, namespace="default")
        else:
            writer.update(kind, record, obj)
