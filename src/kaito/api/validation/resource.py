"""What the nodes must satisfy that a Workspace asks for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kaito.api import labels, workspace
from kaito.api.validation.facts import AZURE_PREFIXES, FieldError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.api.validation.facts import Catalogue, Policy
    from kaito.api.workspace import Workspace

_LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME})?")

_CLOUD_LABELS = frozenset({"agentpool", "storageprofile", "storagetier"})
_CLOUD_DOMAINS = ("kubernetes.azure.com", "eks.amazonaws.com", "cloud.google.com")
_KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")


def resource_errors(obj: Workspace, catalogue: Catalogue, policy: Policy) -> Iterator[FieldError]:
    resource = obj.resource
    if resource.count < 1:
        yield FieldError("resource.count", "must be at least 1")
    if obj.tuning is not None and resource.count > 1:
        yield FieldError("resource.count", "tuning runs on one node: set count to 1")
    yield from _selector(obj, policy)
    if policy.makes_nodes:
        yield from _instance_type(resource.instance_type, catalogue, policy.cloud)


def resource_warnings(obj: Workspace, policy: Policy) -> Iterator[str]:
    if not policy.makes_nodes and obj.resource.instance_type:
        yield (
            "resource.instanceType: has no effect, because this installation makes no nodes: the Workspace runs on nodes that "
            "match resource.labelSelector"
        )


def _instance_type(size: str, catalogue: Catalogue, cloud: str) -> Iterator[FieldError]:
    path = "resource.instanceType"
    if not size:
        yield FieldError(path, "the size of the nodes is needed, such as Standard_NC24ads_A100_v4", "Required")
    elif catalogue.sku(cloud, size) is None and not (
        cloud == "azure" and size.casefold().startswith(tuple(prefix.casefold() for prefix in AZURE_PREFIXES))
    ):
        known = ", ".join(catalogue.sku_names(cloud))
        yield FieldError(path, f"{size!r} is not a supported instance type; supported are: {known}", "NotSupported")


def _selector(obj: Workspace, policy: Policy) -> Iterator[FieldError]:
    path, selector = "resource.labelSelector", obj.resource.label_selector
    if selector is None:
        yield FieldError(path, "the labels of the nodes to run on are needed", "Required")
        return
    for index, term in enumerate(selector.match_expressions or ()):
        if term.operator != "In" or len(term.values or ()) != 1:
            yield FieldError(f"{path}.matchExpressions[{index}]", workspace.SELECTOR_FORM)
    own = {labels.WORKSPACE: obj.metadata.name, labels.WORKSPACE_NAMESPACE: obj.metadata.namespace}
    for key, value in selector.as_labels().items():
        if not _LABEL_KEY.fullmatch(key):
            yield FieldError(path, f"{key!r} is not a label key")
        if not _LABEL_VALUE.fullmatch(value):
            yield FieldError(path, f"{value!r} is not a label value")
        if key in own:
            if value != own[key]:
                yield FieldError(
                    path, f"label {key} of a node says which Workspace it was made for; choose another label"
                )
        elif policy.makes_nodes and (why := _not_given(key)):
            yield FieldError(
                path, f"label {key} {why}; give the nodes a label of your own, such as apps: {obj.metadata.name}"
            )


def _not_given(key: str) -> str:
    """Why no new node can be given the label, to be read after its key; empty for one that it can be given."""
    domain, _, _ = key.rpartition("/")
    if key in _CLOUD_LABELS or _within(domain, _CLOUD_DOMAINS):
        return "is set by the cloud alone, so no node that is made for the Workspace would have it"
    if _within(domain, _KUBERNETES_DOMAINS) or _within(domain, ("karpenter.sh",)):
        return "is set by Kubernetes on every node, so it selects nodes of others and cannot be given to a new one"
    return ""


def _within(domain: str, domains: tuple[str, ...]) -> bool:
    return any(domain == other or domain.endswith(f".{other}") for other in domains)
