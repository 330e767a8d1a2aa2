"""Admission: the plugins of a stock control plane that clients notice.

The order is that of kube-apiserver: after decoding and defaulting, before validation. Webhooks are called beside them; see
``webhooks``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.objects.meta import details
from kaito.devcluster.apiserver.store import Collection, Object, Record, decode
from kaito.runtime import Forbidden, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.devcluster.apiserver.objects.registry import Kind

PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
_TOLERATION_SECONDS = 300
_NOT_READY = "node.kubernetes.io/not-ready"
_NODE_TAINTS = (_NOT_READY, "node.kubernetes.io/unreachable")


class Admission:
    """NamespaceLifecycle, Priority, DefaultTolerationSeconds, TaintNodesByCondition, DefaultStorageClass,
    StorageObjectInUseProtection, and the default service account's name.

    Unlike the ServiceAccount plugin it mounts no token, and does not ask whether the account exists.
    """

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._namespaces = collections["namespaces"]
        self._priority_classes = collections["priorityclasses.scheduling.k8s.io"]
        self._storage_classes = collections["storageclasses.storage.k8s.io"]

    def create(self, kind: Kind, obj: Object) -> None:
        """Change or refuse a new object. Raises Forbidden, or NotFound for its namespace."""
        self.namespace_accepts(kind, obj["metadata"].get("namespace", ""), obj["metadata"].get("name", ""))
        match kind.info.group_resource:
            case "pods":
                self._pod(kind, obj)
            case "persistentvolumeclaims":
                self._claim(obj)
                _protect(obj, "kubernetes.io/pvc-protection")
            case "persistentvolumes":
                _protect(obj, "kubernetes.io/pv-protection")
            case "nodes":
                _taint_not_ready(obj)

    def namespace_accepts(self, kind: Kind, namespace: str, name: str) -> None:
        if not kind.info.namespaced:
            return
        record = self._namespaces.get(namespace)
        if record is None:
            raise NotFound(f'namespaces "{namespace}" not found', details={"name": namespace, "kind": "namespaces"})
        if record.fields["status.phase"] == "Terminating":
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise _forbidden(
                kind,
                name,
                f"unable to create new content in namespace {namespace} because it is being terminated",
                cause,
            )

    def delete(self, kind: Kind, record: Record) -> None:
        """Refuse deletions that would break the cluster. Raises Forbidden."""
        if kind.info.group_resource == "namespaces" and record.name in PROTECTED_NAMESPACES:
            raise _forbidden(kind, record.name, "this namespace may not be deleted")

    def _pod(self, kind: Kind, pod: Object) -> None:
        spec = pod["spec"]
        if not spec.get("serviceAccountName"):
            spec["serviceAccountName"] = spec["serviceAccount"] = "default"
        self._prioritise(kind, pod)
        tolerations = spec.get("tolerations") or []
        for taint in _NODE_TAINTS:
            if not any(_tolerates(toleration, taint) for toleration in tolerations):
                toleration = {"key": taint, "operator": "Exists", "effect": "NoExecute"}
                tolerations = [*tolerations, toleration | {"tolerationSeconds": _TOLERATION_SECONDS}]
        spec["tolerations"] = tolerations

    def _prioritise(self, kind: Kind, pod: Object) -> None:
        spec = pod["spec"]
        classes = {record.name: decode(record.body) for record in self._priority_classes}
        name = spec.get("priorityClassName")
        if name and name not in classes:
            raise _forbidden(kind, pod["metadata"]["name"], f"no PriorityClass with name {name} was found")
        if not name:
            name = next((n for n, priority in sorted(classes.items()) if priority.get("globalDefault")), "")
        found = classes.get(name, {})
        if name:
            spec["priorityClassName"] = name
        value = found.get("value", 0)
        if spec.get("priority") is not None and spec["priority"] != value:
            raise _forbidden(
                kind,
                pod["metadata"]["name"],
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name",
            )
        spec["priority"] = value
        spec.setdefault("preemptionPolicy", found.get("preemptionPolicy", "PreemptLowerPriority"))

    def _claim(self, claim: Object) -> None:
        if claim["spec"].get("storageClassName") is not None:
            return
        for record in self._storage_classes:
            annotations = decode(record.body)["metadata"].get("annotations") or {}
            if annotations.get("storageclass.kubernetes.io/is-default-class") == "true":
                claim["spec"]["storageClassName"] = record.name
                return


def _tolerates(toleration: Mapping[str, str], taint: str) -> bool:
    return toleration.get("key", "") in ("", taint) and toleration.get("effect", "") in ("", "NoExecute")


def _forbidden(kind: Kind, name: str, why: str, *causes: Mapping[str, str]) -> Forbidden:
    shown = details(kind.info, name)
    if causes:
        shown["causes"] = list(causes)
    return Forbidden(f'{kind.info.group_resource} "{name}" is forbidden: {why}', details=shown)


def _protect(obj: Object, finalizer: str) -> None:
    finalizers = obj["metadata"].get("finalizers") or []
    if finalizer not in finalizers:
        obj["metadata"]["finalizers"] = [*finalizers, finalizer]


def _taint_not_ready(node: Object) -> None:
    """A new node is not ready, until the node lifecycle controller has looked at it."""
    taint = {"key": _NOT_READY, "effect": "NoSchedule"}
    spec = node.setdefault("spec", {})
    taints = spec.get("taints") or []
    if taint not in taints:
        spec["taints"] = [*taints, taint]
