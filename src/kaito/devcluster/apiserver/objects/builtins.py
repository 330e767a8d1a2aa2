"""The built-in resources of the local API server: those of Kubernetes 1.32 that an operator and its workloads meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CREATE_ONLY = ("create",)
_WITHOUT_COLLECTION_DELETE = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")
_READ_WRITE = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class SubresourceInfo:
    """A path below an object; ``group``/``version``/``kind`` name what is sent there, not the parent."""

    kind: str
    group: str
    version: str
    verbs: tuple[str, ...]
    connects: bool = False
    """It leads a connection through the server, and has no object."""


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """What discovery, routing, printing and OpenAPI need to know of one resource in one version."""

    group: str
    """``""`` for core."""
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: Mapping[str, SubresourceInfo] = field(default_factory=dict)
    list_kind: str = ""
    """``""`` where the resource cannot be listed."""
    definition: str = ""
    """Name of the OpenAPI definition, ``io.k8s.api.core.v1.Pod``; ``""`` for custom resources."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """``plural.group``, as error messages and RBAC name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_DEFINITION_PREFIXES = {
    "": "io.k8s.api.core",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "rbac.authorization.k8s.io": "io.k8s.api.rbac",
}


def definition_name(group: str, version: str, kind: str) -> str:
    """Name of a built-in kind's OpenAPI definition."""
    prefix = _DEFINITION_PREFIXES.get(group) or f"io.k8s.api.{group.partition('.')[0]}"
    return f"{prefix}.{version}.{kind}"


_SCALE = SubresourceInfo("Scale", "autoscaling", "v1", _READ_WRITE)
_BINDING = SubresourceInfo("Binding", "", "v1", CREATE_ONLY)
_EVICTION = SubresourceInfo("Eviction", "policy", "v1", CREATE_ONLY)
_GET_OR_POST = ("create", "get")
_ANY_METHOD = ("create", "delete", "get", "patch", "update")
_TOKEN = SubresourceInfo("TokenRequest", "authentication.k8s.io", "v1", CREATE_ONLY)


def _connection(kind: str, verbs: tuple[str, ...]) -> SubresourceInfo:
    return SubresourceInfo(kind, "", "v1", verbs, connects=True)


def _info(
    api_version: str,
    kind: str,
    plural: str,
    *short_names: str,
    namespaced: bool = True,
    categories: tuple[str, ...] = (),
    verbs: tuple[str, ...] = ALL_VERBS,
    status: bool = False,
    scale: bool = False,
    **subresources: SubresourceInfo,
) -> ResourceInfo:
    group, _, version = api_version.rpartition("/")
    if status:
        subresources["status"] = SubresourceInfo(kind, group, version, _READ_WRITE)
    if scale:
        subresources["scale"] = _SCALE
    return ResourceInfo(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        namespaced=namespaced,
        short_names=short_names,
        categories=categories,
        verbs=verbs,
        subresources=MappingProxyType(dict(sorted(subresources.items()))),
        list_kind=f"{kind}List" if "list" in verbs else "",
        definition=definition_name(group, version, kind),
    )


_ALL = ("all",)
_API_EXTENSIONS = ("api-extensions",)
_ADMISSION = "admissionregistration.k8s.io/v1"
_AUTHORIZATION = "authorization.k8s.io/v1"
_RBAC = "rbac.authorization.k8s.io/v1"
_NETWORKING = "networking.k8s.io/v1"
_STORAGE = "storage.k8s.io/v1"

BUILTINS: tuple[ResourceInfo, ...] = (
    _info("v1", "Binding", "bindings", verbs=CREATE_ONLY),
    _info("v1", "ConfigMap", "configmaps", "cm"),
    _info("v1", "Endpoints", "endpoints", "ep"),
    _info("v1", "Event", "events", "ev"),
    _info("v1", "LimitRange", "limitranges", "limits"),
    _info(
        "v1",
        "Namespace",
        "namespaces",
        "ns",
        namespaced=False,
        verbs=_WITHOUT_COLLECTION_DELETE,
        status=True,
        finalize=SubresourceInfo("Namespace", "", "v1", ("update",)),
    ),
    _info("v1", "Node", "nodes", "no", namespaced=False, status=True),
    _info("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", status=True),
    _info("v1", "PersistentVolume", "persistentvolumes", "pv", namespaced=False, status=True),
    _info(
        "v1",
        "Pod",
        "pods",
        "po",
        categories=_ALL,
        status=True,
        log=SubresourceInfo("Pod", "", "v1", ("get",)),
        attach=_connection("PodAttachOptions", _GET_OR_POST),
        exec=_connection("PodExecOptions", _GET_OR_POST),
        portforward=_connection("PodPortForwardOptions", _GET_OR_POST),
        proxy=_connection("PodProxyOptions", _ANY_METHOD),
        binding=_BINDING,
        eviction=_EVICTION,
    ),
    _info("v1", "PodTemplate", "podtemplates"),
    _info("v1", "ReplicationController", "replicationcontrollers", "rc", categories=_ALL, status=True, scale=True),
    _info("v1", "ResourceQuota", "resourcequotas", "quota", status=True),
    _info("v1", "Secret", "secrets"),
    _info("v1", "ServiceAccount", "serviceaccounts", "sa", token=_TOKEN),
    _info(
        "v1",
        "Service",
        "services",
        "svc",
        categories=_ALL,
        status=True,
        proxy=_connection("ServiceProxyOptions", _ANY_METHOD),
    ),
    _info("apps/v1", "ControllerRevision", "controllerrevisions"),
    _info("apps/v1", "DaemonSet", "daemonsets", "ds", categories=_ALL, status=True),
    _info("apps/v1", "Deployment", "deployments", "deploy", categories=_ALL, status=True, scale=True),
    _info("apps/v1", "ReplicaSet", "replicasets", "rs", categories=_ALL, status=True, scale=True),
    _info("apps/v1", "StatefulSet", "statefulsets", "sts", categories=_ALL, status=True, scale=True),
    _info("batch/v1", "CronJob", "cronjobs", "cj", categories=_ALL, status=True),
    _info("batch/v1", "Job", "jobs", categories=_ALL, status=True),
    _info("coordination.k8s.io/v1", "Lease", "leases"),
    _info("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    _info("events.k8s.io/v1", "Event", "events", "ev"),
    _info(_RBAC, "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    _info(_RBAC, "ClusterRole", "clusterroles", namespaced=False),
    _info(_RBAC, "RoleBinding", "rolebindings"),
    _info(_RBAC, "Role", "roles"),
    _info(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd",
        "crds",
        namespaced=False,
        categories=_API_EXTENSIONS,
        status=True,
    ),
    _info(
        _ADMISSION,
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        namespaced=False,
        categories=_API_EXTENSIONS,
    ),
    _info(
        _ADMISSION,
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        namespaced=False,
        categories=_API_EXTENSIONS,
    ),
    _info(_STORAGE, "CSIDriver", "csidrivers", namespaced=False),
    _info(_STORAGE, "CSINode", "csinodes", namespaced=False),
    _info(_STORAGE, "StorageClass", "storageclasses", "sc", namespaced=False),
    _info(_STORAGE, "VolumeAttachment", "volumeattachments", namespaced=False, status=True),
    _info("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", status=True),
    _info("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", namespaced=False),
    _info(_NETWORKING, "IngressClass", "ingressclasses", namespaced=False),
    _info(_NETWORKING, "Ingress", "ingresses", "ing", status=True),
    _info(_NETWORKING, "NetworkPolicy", "networkpolicies", "netpol"),
    _info("autoscaling/v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", categories=_ALL, status=True),
    _info("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", categories=_ALL, status=True),
    _info("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", namespaced=False),
    _info("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False, verbs=CREATE_ONLY),
    _info("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False, verbs=CREATE_ONLY),
    _info(_AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", verbs=CREATE_ONLY),
    _info(_AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False, verbs=CREATE_ONLY),
    _info(_AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", namespaced=False, verbs=CREATE_ONLY),
    _info(_AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", namespaced=False, verbs=CREATE_ONLY),
)
