"""What a kind of object is called on the wire, and how its bytes become Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

T = TypeVar("T")


class Key(NamedTuple):
    """Identity of an object within its resource; ``namespace`` is ``""`` for cluster-scoped objects."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Resource(msgspec.Struct, Generic[T], frozen=True):
    """A resource of the API, with the codec of the type that its objects are read as.

    Two resources are equal when group, version, plural and ``metadata_only`` are. They share an informer when their
    objects are decoded by the same function, too.
    """

    group: str
    """API group, ``""`` for core."""
    version: str
    kind: str
    plural: str
    namespaced: bool
    decode: Callable[[bytes], T]
    """JSON bytes to a new, unshared value. Raises on bytes that are not such an object."""
    encode: Callable[[T], bytes]
    metadata_only: bool = False
    """Whether only the objects' metadata is asked for and kept; see ``metadata_resource``."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """``plural.group``, as error messages and RBAC name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection or, with ``name``, of one object or its ``subresource``."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", _segment(namespace)]
        parts.append(self.plural)
        if name:
            if self.namespaced and not namespace:
                raise ValueError(f"{self.group_resource} {name!r} needs a namespace")
            parts.append(_segment(name))
            if subresource:
                parts.append(subresource)
        return "/".join(parts)

    def names_same(self, other: Resource[Any]) -> bool:
        """Whether both are about the same objects, however those are read."""
        return (self.group, self.version, self.plural) == (other.group, other.version, other.plural)

    def __hash__(self) -> int:
        return hash((self.group, self.version, self.plural, self.metadata_only))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resource) and self.names_same(other) and self.metadata_only == other.metadata_only

    def __str__(self) -> str:
        return f"{self.kind}.{self.api_version}"


def _segment(text: str) -> str:
    """One path segment; names that would change the path are refused, as client-go does."""
    if text in (".", "..") or "/" in text or "%" in text:
        raise ValueError(f"{text!r} cannot be a name: it may not be '.', '..' or contain '/' or '%'")
    return quote(text, safe="")


Manifest = dict[str, Any]
"""An object as plain JSON values."""

_MANIFEST_DECODER = msgspec.json.Decoder(Manifest)


def manifest_resource(
    group: str, version: str, kind: str, plural: str, *, namespaced: bool = True
) -> Resource[Manifest]:
    """A resource whose objects are read and written as plain dictionaries."""
    return Resource(group, version, kind, plural, namespaced, _MANIFEST_DECODER.decode, msgspec.json.encode)


NAMESPACES = manifest_resource("", "v1", "Namespace", "namespaces", namespaced=False)
NODES = manifest_resource("", "v1", "Node", "nodes", namespaced=False)
PODS = manifest_resource("", "v1", "Pod", "pods")
SERVICES = manifest_resource("", "v1", "Service", "services")
CONFIG_MAPS = manifest_resource("", "v1", "ConfigMap", "configmaps")
SECRETS = manifest_resource("", "v1", "Secret", "secrets")
SERVICE_ACCOUNTS = manifest_resource("", "v1", "ServiceAccount", "serviceaccounts")
ENDPOINTS = manifest_resource("", "v1", "Endpoints", "endpoints")
DEPLOYMENTS = manifest_resource("apps", "v1", "Deployment", "deployments")
REPLICA_SETS = manifest_resource("apps", "v1", "ReplicaSet", "replicasets")
STATEFUL_SETS = manifest_resource("apps", "v1", "StatefulSet", "statefulsets")
CONTROLLER_REVISIONS = manifest_resource("apps", "v1", "ControllerRevision", "controllerrevisions")
JOBS = manifest_resource("batch", "v1", "Job", "jobs")
LEASES = manifest_resource("coordination.k8s.io", "v1", "Lease", "leases")
EVENTS = manifest_resource("events.k8s.io", "v1", "Event", "events")
ENDPOINT_SLICES = manifest_resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
CUSTOM_RESOURCE_DEFINITIONS = manifest_resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
VALIDATING_WEBHOOK_CONFIGURATIONS = manifest_resource(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
MUTATING_WEBHOOK_CONFIGURATIONS = manifest_resource(
    "admissionregistration.k8s.io",
    "v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
