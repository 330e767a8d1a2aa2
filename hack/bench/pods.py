"""Pods as a real cluster holds them: running, of a ReplicaSet, with what the server and the kubelet have added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hack.bench.names import NAMESPACE, POD
from kaito.runtime import NODES, REPLICA_SETS, SERVICE_ACCOUNTS, Manifest, Resource

_APPS = ("checkout", "search", "catalogue", "payments", "accounts", "shipping", "pricing", "reviews")
_NODES = 20
_ACCOUNT = "workload"
_CREATED = "2026-01-01T00:00:00Z"
_CONDITIONS = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
_VARIABLES = ("LOG_LEVEL", "DATABASE_URL", "REGION")


def surroundings() -> list[tuple[Resource[Manifest], Manifest]]:
    """What pods refer to; a cluster's controllers would delete pods whose node or owner does not exist."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT, "namespace": NAMESPACE}}
    return [
        (SERVICE_ACCOUNTS, account),
        *((NODES, _node(f"bench-node-{number}")) for number in range(_NODES)),
        *((REPLICA_SETS, _replica_set(app)) for app in _APPS),
    ]


def _node(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": True}}


def _owner(app: str) -> str:
    return f"{app}-7d4b9c8f6d"


def _replica_set(app: str) -> Manifest:
    """It selects none of the benchmark's pods: a cluster's controllers leave them alone."""
    labels = {"bench.kaito.sh/owner": app}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": _owner(app), "namespace": NAMESPACE},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "registry.example.com/team/app:1.0.0"}]},
            },
        },
    }


def pod(number: int, uids: Mapping[str, str]) -> Manifest:
    """5.9 KB with what a server adds, 1.5 KB of it managed fields; ``uids`` are those of the surroundings, by name."""
    app = _APPS[number % len(_APPS)]
    owner: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": _owner(app),
        "uid": uids[_owner(app)],
        # A controlling one would be scaled down to its 0 replicas by a cluster's controllers.
        "controller": False,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": POD.api_version,
        "kind": POD.kind,
        "metadata": {
            "name": POD.of(number),
            "generateName": f"{_owner(app)}-",
            "namespace": NAMESPACE,
            "labels": {"app": app, "pod-template-hash": "7d4b9c8f6d", "tier": ("web", "api", "db")[number % 3]},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [owner],
            "managedFields": [_controller_fields(app, owner["uid"]), _kubelet_fields(number)],
        },
        "spec": _spec(number, app),
        "status": _status(number, app),
    }


def _spec(number: int, app: str) -> Manifest:
    token: Manifest = {
        "name": "kube-api-access-x2x7k",
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {
                                "path": "namespace",
                                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                            }
                        ]
                    }
                },
            ],
        },
    }
    return {
        "nodeName": f"bench-node-{number % _NODES}",
        "serviceAccountName": _ACCOUNT,
        "containers": [_main_container(number, app), _sidecar()],
        "volumes": [{"name": "config", "configMap": {"name": app}}, {"name": "scratch", "emptyDir": {}}, token],
        "tolerations": [
            {"key": key, "operator": "Exists", "effect": "NoExecute"}
            for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
    }


_TOKEN_MOUNT = {
    "name": "kube-api-access-x2x7k",
    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    "readOnly": True,
}


def _main_container(number: int, app: str) -> Manifest:
    return {
        "name": app,
        "image": f"registry.example.com/team/{app}:1.{number % 40}.0",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            *({"name": name, "value": f"{name.lower()} of {app} {number}"} for name in _VARIABLES),
        ],
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "512Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/app", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
            _TOKEN_MOUNT,
        ],
        "livenessProbe": _probe("/healthz", 10),
        "readinessProbe": _probe("/readyz", 5),
    }


def _sidecar() -> Manifest:
    return {
        "name": "proxy",
        "image": "registry.example.com/mesh/proxy:2.4.1",
        "env": [{"name": "UPSTREAM", "value": "http://127.0.0.1:8080"}],
        "resources": {"limits": {"memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [_TOKEN_MOUNT],
    }


def _probe(path: str, period: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": 8080, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


def _status(number: int, app: str) -> Manifest:
    host, address = f"10.0.{number % _NODES}.4", _address(number)
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": _CREATED} for kind in _CONDITIONS],
        "hostIP": host,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": _CREATED,
        "qosClass": "Burstable",
        "containerStatuses": [
            _container_status(number, app, f"registry.example.com/team/{app}:1.{number % 40}.0"),
            _container_status(number, "proxy", "registry.example.com/mesh/proxy:2.4.1"),
        ],
    }


def _address(number: int) -> str:
    return f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _container_status(number: int, name: str, image: str) -> Manifest:
    return {
        "name": name,
        "image": image,
        "imageID": f"{image.partition(':')[0]}@sha256:{_digest(image)}",
        "containerID": f"containerd://{_digest(f'{name} of {number}')}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": _CREATED}},
        "lastState": {},
    }


def _controller_fields(app: str, uid: str) -> Manifest:
    container = _fields("image", "imagePullPolicy", "name", "resources")
    spec = _fields("dnsPolicy", "restartPolicy", "schedulerName", "securityContext", "serviceAccountName")
    spec["f:containers"] = {f'k:{{"name":"{name}"}}': container for name in (app, "proxy")}
    del spec["."]
    metadata = {
        "f:generateName": {},
        "f:labels": _fields("app", "pod-template-hash", "tier"),
        "f:ownerReferences": {".": {}, f'k:{{"uid":"{uid}"}}': {}},
    }
    return _entry("kube-controller-manager", {"f:metadata": metadata, "f:spec": spec})


def _kubelet_fields(number: int) -> Manifest:
    condition = _fields("lastProbeTime", "lastTransitionTime", "status", "type")
    status = _fields("containerStatuses", "hostIP", "phase", "podIP", "startTime")
    status |= {
        "f:conditions": {f'k:{{"type":"{kind}"}}': condition for kind in _CONDITIONS},
        "f:podIPs": {".": {}, f'k:{{"ip":"{_address(number)}"}}': _fields("ip")},
    }
    del status["."]
    return _entry("kubelet", {"f:status": status}) | {"subresource": "status"}


def _fields(*names: str) -> Manifest:
    return {".": {}, **{f"f:{name}": {} for name in names}}


def _entry(manager: str, fields: Manifest) -> Manifest:
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": _CREATED,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
