"""Service accounts that may do what a test lets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from kaito.runtime import SERVICE_ACCOUNTS, Client, Manifest, Resource, manifest_resource
from support.waiting import eventually

Rules = list[dict[str, Any]]
"""``rbac/v1 PolicyRule`` objects."""

_GROUP = "rbac.authorization.k8s.io"
_REVIEWS = manifest_resource(
    "authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", namespaced=False
)


@asynccontextmanager
async def service_account(
    client: Client, namespace: str, name: str, cluster_rules: Rules, rules: Rules
) -> AsyncIterator[str]:
    """The token of a new account with ``cluster_rules`` everywhere and ``rules`` in its namespace."""
    await _create(client, SERVICE_ACCOUNTS, {"metadata": {"name": name}}, namespace)
    role = f"{namespace}-{name}"
    async with AsyncExitStack() as stack:
        for kind, granted in (("ClusterRole", cluster_rules), ("Role", rules)):
            where = namespace if kind == "Role" else ""
            roles, bindings = _resource(kind), _resource(f"{kind}Binding")
            await _create(client, roles, {"metadata": {"name": role}, "rules": granted}, where)
            stack.push_async_callback(client.delete, roles, role, where)
            binding = {
                "metadata": {"name": role},
                "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": role},
                "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
            }
            await _create(client, bindings, binding, where)
            stack.push_async_callback(client.delete, bindings, role, where)
            # A server learns of new roles and bindings as everybody does, by watching.
            await eventually(partial(_allowed, client, namespace, name, granted[-1]))
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await client.post(SERVICE_ACCOUNTS, name, "token", request, namespace)
        yield answer["status"]["token"]


def _resource(kind: str) -> Resource[Manifest]:
    return manifest_resource(_GROUP, "v1", kind, f"{kind.lower()}s", namespaced=not kind.startswith("Cluster"))


async def _create(client: Client, resource: Resource[Manifest], body: Manifest, namespace: str = "") -> Manifest:
    identity = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}}
    return await client.create(resource, identity | body, namespace=namespace)


async def _allowed(client: Client, namespace: str, name: str, rule: dict[str, Any]) -> bool:
    """Whether the account may do the first thing that ``rule`` says."""
    plural, _, subresource = rule["resources"][0].partition("/")
    attributes = {
        "namespace": namespace,
        "verb": rule["verbs"][0],
        "group": rule["apiGroups"][0],
        "resource": plural,
        "subresource": subresource,
        "name": next(iter(rule.get("resourceNames", ())), ""),
    }
    spec = {"user": f"system:serviceaccount:{namespace}:{name}", "resourceAttributes": attributes}
    review = await _create(client, _REVIEWS, {"spec": spec})
    return bool(review["status"]["allowed"])
