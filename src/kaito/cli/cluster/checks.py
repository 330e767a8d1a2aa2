"""What ``kaito doctor`` looks at. Each check reads the cluster and gives verdicts; one that may not read says so."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kaito.api import labels
from kaito.cli.cluster.picture import picture
from kaito.cli.cluster.render import duration
from kaito.cli.cluster.seen import ORDERS, WORKSPACE, read
from kaito.controllers.workspace import facts
from kaito.runtime import (
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    LEASES,
    NODES,
    Forbidden,
    LabelSelector,
    Manifest,
    NotFound,
    SystemClock,
    manifest_resource,
    parse_time,
)

if TYPE_CHECKING:
    from kaito.runtime import Client

Level = Literal["ok", "note", "warn", "fail"]

WEBHOOKS = manifest_resource(
    "admissionregistration.k8s.io",
    "v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)
OPERATOR = LabelSelector.of({"app.kubernetes.io/name": "kaito"})
WANTED = (
    ("kaito.sh", "workspaces", "create"),
    ("kaito.sh", "workspaces", "list"),
    ("kaito.sh", "workspaces", "delete"),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
    ("", "pods/portforward", "create"),
)
"""(group, resource, verb) of what a person does who runs models."""
AZURE = ("ARM_SUBSCRIPTION_ID", "ARM_RESOURCE_GROUP", "AZURE_CLUSTER_NAME")
_QUOTA = ("quota", "exceeding approved", "skunotavailable", "allocationfailed", "overconstrained")


@dataclass(frozen=True, slots=True)
class Verdict:
    level: Level
    what: str
    says: str
    advice: str = ""


Check = Callable[["Client", str], AsyncIterator[Verdict]]


async def examine(client: Client, namespace: str) -> list[Verdict]:
    """All verdicts. Raises where the cluster cannot be reached at all."""
    verdicts = []
    for what, check in CHECKS.items():
        try:
            verdicts += [verdict async for verdict in check(client, namespace)]
        except Forbidden as error:
            verdicts.append(Verdict("note", what, f"you may not look: {error.message}"))
    return verdicts


async def _cluster(client: Client, _: str) -> AsyncIterator[Verdict]:
    answer = await client.rest.send("GET", "version")
    version = msgspec.json.decode(answer.body, type=dict)
    yield Verdict("ok", "cluster", f"Kubernetes {version.get('gitVersion')} answers")


async def _permissions(client: Client, namespace: str) -> AsyncIterator[Verdict]:
    refused = []
    for group, resource, verb in WANTED:
        name, _, subresource = resource.partition("/")
        wanted = {"namespace": namespace, "group": group, "resource": name, "subresource": subresource, "verb": verb}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        body = msgspec.json.encode(review | {"spec": {"resourceAttributes": wanted}})
        answer = await client.rest.send("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        if not msgspec.json.decode(answer.body, type=dict)["status"].get("allowed"):
            refused.append(f"{verb} {resource}")
    if refused:
        yield Verdict(
            "warn",
            "permissions",
            f"in namespace {namespace} you may not {', '.join(refused)}",
            "ask for a role with these verbs",
        )
    else:
        yield Verdict("ok", "permissions", f"you may run models in namespace {namespace}")


async def _definitions(client: Client, _: str) -> AsyncIterator[Verdict]:
    found = {}
    for name in ("workspaces.kaito.sh", "machines.karpenter.sh", "nodeclaims.karpenter.sh"):
        with suppress(NotFound):
            found[name] = await client.get(CUSTOM_RESOURCE_DEFINITIONS, name)
    own = found.pop("workspaces.kaito.sh", None)
    if own is None:
        yield Verdict("fail", "kinds", "the cluster does not know Workspaces", "kubectl apply -k config/crd")
        return
    versions = [each["name"] for each in own["spec"]["versions"] if each.get("served")]
    yield Verdict("ok", "kinds", f"Workspaces are served as {', '.join(versions)}")
    if found:
        yield Verdict("ok", "kinds", f"nodes can be asked for: {', '.join(sorted(found))}")
    else:
        yield Verdict(
            "note",
            "kinds",
            "neither Machines nor NodeClaims: models run on nodes that exist",
            "kubectl apply -k config/crd to buy some",
        )


async def _operator(client: Client, _: str) -> AsyncIterator[Verdict]:
    deployments = await client.list(DEPLOYMENTS, labels=OPERATOR)
    for deployment in deployments:
        where = f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
        wanted, ready = _replicas(deployment)
        image = deployment["spec"]["template"]["spec"]["containers"][0].get("image")
        if not wanted:
            yield Verdict("note", "operator", f"{where} is scaled to zero")
            continue
        level: Level = "ok" if ready >= wanted else "warn" if ready else "fail"
        namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        advice = "" if level == "ok" else f"kubectl -n {namespace} logs deployment/{name}"
        yield Verdict(level, "operator", f"{where}: {ready} of {wanted} ready, {image}", advice)
    leases = [
        each
        for each in await client.list(LEASES)
        if each["metadata"]["name"].startswith("kaito") and each["metadata"]["namespace"] != "kube-node-lease"
    ]
    for lease in leases:
        yield _leader(lease)
    if not deployments and not leases:
        yield Verdict(
            "fail", "operator", "there is none in this cluster", "kubectl apply -k config/overlays/aks (docs/deploy.md)"
        )


def _replicas(deployment: Manifest) -> tuple[int, int]:
    """Wanted and ready."""
    wanted = int(deployment["spec"].get("replicas", 1))
    return wanted, int((deployment.get("status") or {}).get("readyReplicas") or 0)


def _leader(lease: Manifest) -> Verdict:
    spec, name = lease.get("spec") or {}, f"lease {lease['metadata']['namespace']}/{lease['metadata']['name']}"
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    if not holder or not renewed:
        return Verdict("warn", "operator", f"{name} is held by nobody", "does an operator run?")
    silent = (SystemClock().now() - parse_time(renewed)).total_seconds()
    says = f"{name} is held by {holder}, renewed {duration(silent)} ago"
    if silent > 2 * float(spec.get("leaseDurationSeconds") or 15):
        return Verdict("fail", "operator", says, "it has died, or cannot reach the API server: look at its pods")
    return Verdict("ok", "operator", says)


async def _webhook(client: Client, _: str) -> AsyncIterator[Verdict]:
    found = [each for each in await client.list(WEBHOOKS) if "kaito" in each["metadata"]["name"]]
    if not found:
        yield Verdict(
            "note",
            "webhook",
            "not installed: mistakes show in the status of Workspaces instead",
            "config/components/webhook",
        )
    for configuration in found:
        name = configuration["metadata"]["name"]
        bundles = [(each.get("clientConfig") or {}).get("caBundle") for each in configuration.get("webhooks") or ()]
        if not all(bundles) or any(b"CERTIFICATE" not in base64.b64decode(bundle or "") for bundle in bundles):
            yield Verdict(
                "fail", "webhook", f"{name} has no certificate yet: the API server cannot call it",
                "is the operator started with --webhook, and ready?",
            )  # fmt: skip
        else:
            yield Verdict("ok", "webhook", f"{name} has its certificate")


async def _identity(client: Client, _: str) -> AsyncIterator[Verdict]:
    """Which Azure the operator acts on, as far as its Deployment tells."""
    for deployment in await client.list(DEPLOYMENTS, labels=OPERATOR):
        namespace, container = (
            deployment["metadata"]["namespace"],
            deployment["spec"]["template"]["spec"]["containers"][0],
        )
        if not _replicas(deployment)[0] or not any("machine" in str(word) for word in container.get("args") or ()):
            continue
        given = {each["name"]: each.get("value", "…") for each in container.get("env") or ()}
        for source in container.get("envFrom") or ():
            if reference := source.get("configMapRef"):
                with suppress(NotFound):
                    given |= (await client.get(CONFIG_MAPS, reference["name"], namespace)).get("data") or {}
        missing = [name for name in AZURE if not given.get(name) or _placeholder(given[name])]
        if given.get("KAITO_PROVIDER", "aks") != "aks":
            continue
        if missing:
            yield Verdict(
                "fail",
                "identity",
                f"not set: {', '.join(missing)}",
                "fill in config/overlays/aks/azure.env and apply it",
            )
        else:
            yield Verdict(
                "ok", "identity", f"acts on cluster {given['AZURE_CLUSTER_NAME']} in {given['ARM_RESOURCE_GROUP']}"
            )
        client_id = given.get("AZURE_CLIENT_ID", "")
        if not client_id or _placeholder(client_id):
            yield Verdict(
                "warn",
                "identity",
                "AZURE_CLIENT_ID is not set",
                "without workload identity, which credentials does it use?",
            )


def _placeholder(value: str) -> bool:
    return "_HERE" in value or "<" in value or set(value) <= {"0", "-"}


async def _gpus(client: Client, _: str) -> AsyncIterator[Verdict]:
    nodes = await client.list(NODES)
    marked = [node for node in nodes if facts.labels_of(node).get(labels.ACCELERATOR) == labels.ACCELERATOR_NVIDIA]
    silent = [facts.name_of(node) for node in marked if facts.is_ready(node) and not facts.gpus(node)]
    count = sum(facts.gpus(node) for node in nodes)
    yield Verdict(
        "ok", "nodes", f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {count} GPU{'s' * (count != 1)} announced"
    )
    if silent:
        yield Verdict(
            "warn",
            "nodes",
            f"no GPU is announced on {', '.join(silent)}",
            "install NVIDIA's device plug-in (nvidia.com/gpu)",
        )


async def _cloud(client: Client, _: str) -> AsyncIterator[Verdict]:
    for resource in ORDERS:
        with suppress(NotFound):
            for order in await client.list(resource):
                for condition in (order.get("status") or {}).get("conditions") or ():
                    message = str(condition.get("message") or "")
                    if condition["status"] != "True" and any(word in message.lower() for word in _QUOTA):
                        what = f"{order['kind']} {order['metadata']['name']}"
                        yield Verdict(
                            "fail",
                            "quota",
                            f"{what}: {message}",
                            "ask for quota, or choose another size (kaito skus) or region",
                        )


async def _workspaces(client: Client, namespace: str) -> AsyncIterator[Verdict]:
    with suppress(NotFound):
        found: list[dict[str, Any]] = await client.list(WORKSPACE, namespace)
        yield Verdict("ok", "workspaces", f"{len(found)} in namespace {namespace}")
        for workspace in found:
            name = workspace["metadata"]["name"]
            part = picture(await read(client, namespace, name))
            if part.state == "Failed":
                yield Verdict("fail", "workspaces", f"{name}: {part.says}", f"kaito status {name}")


CHECKS: dict[str, Check] = {
    "cluster": _cluster,
    "permissions": _permissions,
    "kinds": _definitions,
    "operator": _operator,
    "webhook": _webhook,
    "identity": _identity,
    "nodes": _gpus,
    "quota": _cloud,
    "workspaces": _workspaces,
}
