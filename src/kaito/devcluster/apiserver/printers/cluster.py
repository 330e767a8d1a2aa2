"""Printers of everything that is not a workload: nodes, network, storage, configuration, access, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.printers.columns import (
    NONE,
    Object,
    Printer,
    age,
    condition,
    created_at,
    joined,
    label_selector,
    labels,
    name,
    part,
    printer,
)
from kaito.devcluster.apiserver.printers.duration import since

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

_ROLE_LABEL = "node-role.kubernetes.io/"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_SHOWN_ENDPOINTS = 3
_ACCESS_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _node(obj: Object, now: datetime) -> list[Any]:
    ready = condition(obj, "Ready").get("status")
    status = "Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"
    if part(obj, "spec").get("unschedulable"):
        status += ",SchedulingDisabled"
    node_labels = part(obj, "metadata", "labels")
    roles = {key.removeprefix(_ROLE_LABEL) for key in node_labels if key.startswith(_ROLE_LABEL)}
    roles |= {node_labels[key] for key in ("kubernetes.io/role",) if node_labels.get(key)}
    info = part(obj, "status", "nodeInfo")
    return [
        name(obj),
        status,
        joined(sorted(roles)),
        age(obj, now),
        info.get("kubeletVersion", ""),
        _address(obj, "InternalIP"),
        _address(obj, "ExternalIP"),
        *(info.get(key) or "<unknown>" for key in ("osImage", "kernelVersion", "containerRuntimeVersion")),
    ]


def _address(obj: Object, kind: str) -> str:
    addresses = part(obj, "status", "addresses") or []
    return next((item.get("address", "") for item in addresses if item.get("type") == kind), NONE)


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), part(obj, "status").get("phase", ""), age(obj, now)]


def _service(obj: Object, now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    cluster_ips = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [
        name(obj),
        spec.get("type", "ClusterIP"),
        cluster_ips[0] or NONE,
        _external_ip(obj),
        joined(map(_port, spec.get("ports") or ())),
        age(obj, now),
        labels(spec.get("selector")),
    ]


def _external_ip(obj: Object) -> str:
    spec = part(obj, "spec")
    match spec.get("type", "ClusterIP"):
        case "ExternalName":
            return str(spec.get("externalName", ""))
        case "LoadBalancer":
            found = _load_balancer(obj) + list(spec.get("externalIPs") or ())
            return ",".join(found) or "<pending>"
    return joined(spec.get("externalIPs") or ())


def _load_balancer(obj: Object) -> list[str]:
    points = part(obj, "status", "loadBalancer", "ingress") or []
    return [point.get("ip") or point.get("hostname") or "" for point in points]


def _port(port: Mapping[str, Any]) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"


def _endpoints(obj: Object, now: datetime) -> list[Any]:
    found = [
        f"{address.get('ip')}:{port.get('port')}" if port else str(address.get("ip"))
        for subset in obj.get("subsets") or ()
        for port in subset.get("ports") or [None]
        for address in subset.get("addresses") or ()
    ]
    return [name(obj), _shortened(found), age(obj, now)]


def _shortened(items: list[str]) -> str:
    more = len(items) - _SHOWN_ENDPOINTS
    return joined(items[:_SHOWN_ENDPOINTS]) + (f" + {more} more..." if more > 0 else "")


def _endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    ports = [str(port.get("port", "*")) for port in obj.get("ports") or ()]
    addresses = [address for point in obj.get("endpoints") or () for address in point.get("addresses") or ()]
    shown = _shortened(ports) if ports else "<unset>"
    return [
        name(obj),
        obj.get("addressType", ""),
        shown,
        _shortened(addresses) if addresses else "<unset>",
        age(obj, now),
    ]


def _ingress(obj: Object, now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    return [
        name(obj),
        spec.get("ingressClassName") or NONE,
        _shortened(hosts) if hosts else "*",
        ",".join(_load_balancer(obj)),
        "80, 443" if spec.get("tls") else "80",
        age(obj, now),
    ]


def _ingress_class(obj: Object, now: datetime) -> list[Any]:
    reference = part(obj, "spec", "parameters")
    group = f".{reference['apiGroup']}" if reference.get("apiGroup") else ""
    parameters = f"{reference['kind']}{group}/{reference['name']}" if reference else NONE
    return [name(obj), part(obj, "spec").get("controller", ""), parameters, age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), label_selector(part(obj, "spec", "podSelector")), age(obj, now)]


def _config_map(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(part(obj, "data")) + len(part(obj, "binaryData")), age(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), obj.get("type", "Opaque"), len(part(obj, "data")), age(obj, now)]


def _service_account(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("secrets") or ()), age(obj, now)]


def _volume(obj: Object, now: datetime) -> list[Any]:
    spec, status = part(obj, "spec"), part(obj, "status")
    claim = spec.get("claimRef")
    return [
        name(obj),
        part(spec, "capacity").get("storage", ""),
        _modes(spec),
        spec.get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if part(obj, "metadata").get("deletionTimestamp") else status.get("phase", ""),
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]


def _claim(obj: Object, now: datetime) -> list[Any]:
    spec, status = part(obj, "spec"), part(obj, "status")
    bound = bool(spec.get("volumeName"))
    return [
        name(obj),
        "Terminating" if part(obj, "metadata").get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        part(status, "capacity").get("storage", "") if bound else "",
        _modes(status) if bound else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        age(obj, now),
        spec.get("volumeMode") or "<unset>",
    ]


def _modes(holder: Object) -> str:
    return ",".join(_ACCESS_MODES.get(mode, mode) for mode in holder.get("accessModes") or ())


def _storage_class(obj: Object, now: datetime) -> list[Any]:
    default = part(obj, "metadata", "annotations").get(_DEFAULT_CLASS) == "true"
    return [
        name(obj) + (" (default)" if default else ""),
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy", "Delete"),
        obj.get("volumeBindingMode", "Immediate"),
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


def _csi_driver(obj: Object, now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    requests = [request.get("audience", "") for request in spec.get("tokenRequests") or ()]
    return [
        name(obj),
        spec.get("attachRequired", True),
        spec.get("podInfoOnMount", False),
        spec.get("storageCapacity", False),
        ",".join(requests) or "<unset>",
        spec.get("requiresRepublish", False),
        joined(spec.get("volumeLifecycleModes") or ()),
        age(obj, now),
    ]


def _csi_node(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(part(obj, "spec", "drivers")), age(obj, now)]


def _volume_attachment(obj: Object, now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    volume = part(spec, "source").get("persistentVolumeName", "")
    attached = part(obj, "status").get("attached", False)
    return [name(obj), spec.get("attacher", ""), volume, spec.get("nodeName", ""), attached, age(obj, now)]


def _quota(obj: Object, now: datetime) -> list[Any]:
    hard, used = part(obj, "status", "hard"), part(obj, "status", "used")
    texts = {key: f"{key}: {used.get(key, '0')}/{limit}" for key, limit in sorted(hard.items())}
    limits = [text for key, text in texts.items() if key.startswith("limits.")]
    requests = [text for key, text in texts.items() if not key.startswith("limits.")]
    return [name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _binding(obj: Object, now: datetime) -> list[Any]:
    role, subjects = part(obj, "roleRef"), obj.get("subjects") or []

    def named(kind: str) -> str:
        found = [subject for subject in subjects if subject.get("kind") == kind]
        return ", ".join(
            f"{subject.get('namespace', '')}/{subject['name']}" if kind == "ServiceAccount" else str(subject["name"])
            for subject in found
        )

    target = f"{role.get('kind', '')}/{role.get('name', '')}"
    return [name(obj), target, age(obj, now), named("User"), named("Group"), named("ServiceAccount")]


def _budget(obj: Object, now: datetime) -> list[Any]:
    spec = part(obj, "spec")
    limits = [str(spec[key]) if key in spec else "N/A" for key in ("minAvailable", "maxUnavailable")]
    return [name(obj), *limits, part(obj, "status").get("disruptionsAllowed", 0), age(obj, now)]


def _priority_class(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), obj.get("value", 0), bool(obj.get("globalDefault")), age(obj, now)]


def _webhooks(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("webhooks") or ()), age(obj, now)]


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), part(obj, "spec").get("holderIdentity", ""), age(obj, now)]


def _runtime_class(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), obj.get("handler", ""), age(obj, now)]


def _creation(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), created_at(obj)]


def _event(obj: Object, now: datetime) -> list[Any]:
    """An Event of either group: their fields differ in name only."""
    regarding = obj.get("involvedObject") or obj.get("regarding") or {}
    source = obj.get("source") or obj.get("deprecatedSource") or {}
    component = source.get("component") or obj.get("reportingComponent") or obj.get("reportingController") or ""
    host = source.get("host") or obj.get("reportingInstance") or ""
    series = obj.get("series") or {}
    moment = obj.get("eventTime")
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or moment
    last = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or moment
    return [
        since(last, now),
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{regarding.get('kind', '').lower()}/{regarding.get('name', '')}",
        regarding.get("fieldPath", ""),
        ", ".join(filter(None, (component, host))),
        str(obj.get("message") or obj.get("note") or "").strip(),
        since(first, now),
        series.get("count") or obj.get("count") or obj.get("deprecatedCount") or 1,
        name(obj),
    ]


_RBAC = "rbac.authorization.k8s.io"
_ADMISSION = "admissionregistration.k8s.io"
_STORAGE = "storage.k8s.io"
_NETWORKING = "networking.k8s.io"
_BINDING = printer("Name,Role,Age,Users+,Groups+,ServiceAccounts+", _binding)
_EVENT = printer(
    "Last Seen,Type,Reason,Object,Subobject+,Source+,Message,First Seen+,Count#+,Name+",
    _event,
)
_CREATION = printer("Name,Created At", _creation)
_WEBHOOKS = printer("Name,Webhooks#,Age", _webhooks)

CLUSTER: dict[tuple[str, str], Printer] = {
    ("", "ConfigMap"): printer("Name,Data#,Age", _config_map),
    ("", "Endpoints"): printer("Name,Endpoints,Age", _endpoints),
    ("", "Event"): _EVENT,
    ("", "LimitRange"): _CREATION,
    ("", "Namespace"): printer("Name,Status,Age", _namespace),
    ("", "Node"): printer(
        "Name,Status,Roles,Age,Version,Internal-IP+,External-IP+,OS-Image+,Kernel-Version+,Container-Runtime+", _node
    ),
    ("", "PersistentVolume"): printer(
        "Name,Capacity,Access Modes,Reclaim Policy,Status,Claim,StorageClass,VolumeAttributesClass,Reason,Age,VolumeMode+",
        _volume,
    ),
    ("", "PersistentVolumeClaim"): printer(
        "Name,Status,Volume,Capacity,Access Modes,StorageClass,VolumeAttributesClass,Age,VolumeMode+", _claim
    ),
    ("", "ResourceQuota"): printer("Name,Request,Limit,Age", _quota),
    ("", "Secret"): printer("Name,Type,Data#,Age", _secret),
    ("", "Service"): printer("Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector+", _service),
    ("", "ServiceAccount"): printer("Name,Secrets#,Age", _service_account),
    (_ADMISSION, "MutatingWebhookConfiguration"): _WEBHOOKS,
    (_ADMISSION, "ValidatingWebhookConfiguration"): _WEBHOOKS,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _CREATION,
    ("coordination.k8s.io", "Lease"): printer("Name,Holder,Age", _lease),
    ("discovery.k8s.io", "EndpointSlice"): printer("Name,AddressType,Ports,Endpoints,Age", _endpoint_slice),
    ("events.k8s.io", "Event"): _EVENT,
    (_NETWORKING, "Ingress"): printer("Name,Class,Hosts,Address,Ports,Age", _ingress),
    (_NETWORKING, "IngressClass"): printer("Name,Controller,Parameters,Age", _ingress_class),
    (_NETWORKING, "NetworkPolicy"): printer("Name,Pod-Selector,Age", _network_policy),
    ("node.k8s.io", "RuntimeClass"): printer("Name,Handler,Age", _runtime_class),
    ("policy", "PodDisruptionBudget"): printer("Name,Min Available,Max Unavailable,Allowed Disruptions#,Age", _budget),
    (_RBAC, "ClusterRole"): _CREATION,
    (_RBAC, "ClusterRoleBinding"): _BINDING,
    (_RBAC, "Role"): _CREATION,
    (_RBAC, "RoleBinding"): _BINDING,
    ("scheduling.k8s.io", "PriorityClass"): printer("Name,Value#,Global-Default,Age", _priority_class),
    (_STORAGE, "CSIDriver"): printer(
        "Name,AttachRequired,PodInfoOnMount,StorageCapacity,TokenRequests,RequiresRepublish,Modes,Age", _csi_driver
    ),
    (_STORAGE, "CSINode"): printer("Name,Drivers#,Age", _csi_node),
    (_STORAGE, "StorageClass"): printer(
        "Name,Provisioner,ReclaimPolicy,VolumeBindingMode,AllowVolumeExpansion,Age", _storage_class
    ),
    (_STORAGE, "VolumeAttachment"): printer("Name,Attacher,PV,Node,Attached,Age", _volume_attachment),
}
