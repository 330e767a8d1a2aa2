"""Endpoints and EndpointSlices: the pods behind each Service, and whether they are ready.

Looser than kube-controller-manager: IPv4 only, one slice for each set of ports however many endpoints it has, no topology
hints; Endpoints and slices that users write for Services without selector are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaito.devcluster.controllers import pods
from kaito.devcluster.controllers.workloads import TERMINATING
from kaito.runtime import (
    ENDPOINT_SLICES,
    ENDPOINTS,
    PODS,
    SERVICES,
    AlreadyExists,
    ApiError,
    Client,
    Controller,
    Key,
    LabelSelector,
    Lister,
    Manager,
    Manifest,
    NotFound,
    ObjectMeta,
    Request,
    Stored,
    Watch,
    owner_reference,
)

NAME = "endpoints-controller"
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
_INDEX = "endpoints/selector"

Ports = tuple[tuple[str, int, str, str], ...]
"""Name, number, protocol and application protocol of each."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One pod behind a Service."""

    pod: Manifest
    ports: Ports

    @property
    def address(self) -> str:
        return str(self.pod["status"]["podIP"])

    @property
    def target(self) -> Manifest:
        metadata = self.pod["metadata"]
        return {
            "kind": "Pod",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        }

    def hostname(self, service: str) -> str:
        spec = self.pod["spec"]
        return str(spec.get("hostname") or "") if spec.get("subdomain") == service else ""


def backends(service: Mapping[str, Any], selected: Iterable[Manifest]) -> list[Backend]:
    """Pods that have an address and are not finished, by name."""
    found = [
        Backend(pod, target_ports(service, pod))
        for pod in selected
        if (pod.get("status") or {}).get("podIP") and not pods.is_finished(pod)
    ]
    return sorted(found, key=lambda item: str(item.pod["metadata"]["name"]))


def target_ports(service: Mapping[str, Any], pod: Mapping[str, Any]) -> Ports:
    """The Service's ports as this pod has them; a named port that the pod does not have is left out."""
    result = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol", "TCP")
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else _named(pod, target, protocol)
        if number:
            result.append((port.get("name", ""), number, protocol, port.get("appProtocol", "")))
    return tuple(result)


def _named(pod: Mapping[str, Any], name: str, protocol: str) -> int:
    for container in pod["spec"].get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return 0


def _publishes(service: Mapping[str, Any], pod: Manifest) -> bool:
    spec = service["spec"]
    return bool(spec.get("publishNotReadyAddresses")) or (pods.is_ready(pod) and not pods.is_deleting(pod))


def slices(service: Mapping[str, Any], owner: Mapping[str, Any], behind: Sequence[Backend]) -> list[Manifest]:
    """The EndpointSlices of a Service: one for each set of ports among its pods, an empty one where there are no pods."""
    groups: dict[Ports, list[Backend]] = {}
    for backend in behind:
        groups.setdefault(backend.ports, []).append(backend)
    return [_slice(service, owner, ports, group) for ports, group in (groups or {(): []}).items()]


def _slice(service: Mapping[str, Any], owner: Mapping[str, Any], ports: Ports, group: Sequence[Backend]) -> Manifest:
    metadata = service["metadata"]
    labels = {
        **(metadata.get("labels") or {}),
        SERVICE_NAME: metadata["name"],
        MANAGED_BY: MANAGER,
    }
    if service["spec"].get("clusterIP") == "None":
        labels[HEADLESS] = ""
    digest = hashlib.sha256(json.dumps([metadata["uid"], ports]).encode()).hexdigest()
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{metadata['name']}-{digest[:5]}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [dict(owner)],
        },
        "addressType": "IPv4",
        "ports": [_port(*port, always_named=True) for port in ports],
        "endpoints": [_endpoint(service, backend) for backend in group],
    }


def _port(name: str, number: int, protocol: str, application: str, *, always_named: bool) -> Manifest:
    port: Manifest = {"name": name} if name or always_named else {}
    port |= {"port": number, "protocol": protocol}
    return {**port, "appProtocol": application} if application else port


def _endpoint(service: Mapping[str, Any], backend: Backend) -> Manifest:
    terminating = pods.is_deleting(backend.pod)
    serving = pods.is_ready(backend.pod)
    endpoint: Manifest = {
        "addresses": [backend.address],
        "conditions": {
            "ready": _publishes(service, backend.pod),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": backend.target,
        "nodeName": backend.pod["spec"]["nodeName"],
    }
    hostname = backend.hostname(service["metadata"]["name"])
    return {**endpoint, "hostname": hostname} if hostname else endpoint


def endpoints(service: Mapping[str, Any], behind: Sequence[Backend]) -> Manifest:
    """The Endpoints object of a Service: a subset for each set of ports; terminating pods are in none."""
    metadata = service["metadata"]
    subsets: dict[Ports, Manifest] = {}
    for backend in behind:
        if not backend.ports and service["spec"].get("ports"):
            continue
        if pods.is_deleting(backend.pod) and not service["spec"].get("publishNotReadyAddresses"):
            continue
        address: Manifest = {
            "ip": backend.address,
            "nodeName": backend.pod["spec"]["nodeName"],
            "targetRef": backend.target,
        }
        hostname = backend.hostname(metadata["name"])
        if hostname:
            address["hostname"] = hostname
        subset = subsets.setdefault(backend.ports, {})
        place = "addresses" if _publishes(service, backend.pod) else "notReadyAddresses"
        subset.setdefault(place, []).append(address)
    for ports, subset in subsets.items():
        if ports:
            subset["ports"] = [_port(*port, always_named=False) for port in ports]
    labels = dict(metadata.get("labels") or {})
    if service["spec"].get("clusterIP") == "None":
        labels[HEADLESS] = ""
    body: Manifest = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
    }
    if labels:
        body["metadata"]["labels"] = labels
    return {**body, "subsets": list(subsets.values())} if subsets else body


class EndpointsReconciler:
    def __init__(
        self,
        client: Client,
        services: Lister[Manifest],
        pod_lister: Lister[Manifest],
        endpoint_lister: Lister[Manifest],
        slice_lister: Lister[Manifest],
    ) -> None:
        self._client = client
        self._services = services
        self._pods = pod_lister
        self._endpoints = endpoint_lister
        self._slices = slice_lister

    async def reconcile(self, request: Request) -> None:
        key = request.key
        stored = self._services.stored(key.name, key.namespace)
        if stored is None:
            # The slices have the Service as their owner; Endpoints go by name.
            if self._endpoints.stored(key.name, key.namespace) is not None:
                with contextlib.suppress(NotFound):
                    await self._client.delete(ENDPOINTS, key.name, key.namespace)
            return
        service, meta = stored.decode(), stored.meta
        selector = service["spec"].get("selector")
        if meta.deleting or not selector or service["spec"].get("type") == "ExternalName":
            return
        selected = self._pods.list(key.namespace, labels=LabelSelector.of(selector))
        behind = backends(service, selected)
        try:
            await self._write_endpoints(service, behind)
            await self._write_slices(service, meta, behind)
        except ApiError as error:
            if not error.has_cause(TERMINATING):
                raise

    async def _write_endpoints(self, service: Manifest, behind: Sequence[Backend]) -> None:
        wanted = endpoints(service, behind)
        metadata = wanted["metadata"]
        held = self._endpoints.get(metadata["name"], metadata["namespace"])
        if held is None:
            with contextlib.suppress(AlreadyExists):
                await self._client.create(ENDPOINTS, wanted)
            return
        if held.get("subsets") != wanted.get("subsets") or (held["metadata"].get("labels") or {}) != (
            metadata.get("labels") or {}
        ):
            body = {**wanted, "metadata": {**held["metadata"], "labels": metadata.get("labels") or {}}}
            await self._client.update(ENDPOINTS, body)

    async def _write_slices(self, service: Manifest, meta: ObjectMeta, behind: Sequence[Backend]) -> None:
        of_service = {SERVICE_NAME: meta.name, MANAGED_BY: MANAGER}
        held = {item["metadata"]["name"]: item for item in self._slices.list(meta.namespace, labels=of_service)}
        for wanted in slices(service, owner_reference(SERVICES, meta), behind):
            name = wanted["metadata"]["name"]
            known = held.pop(name, None)
            if known is None:
                with contextlib.suppress(AlreadyExists):
                    await self._client.create(ENDPOINT_SLICES, wanted)
            elif _said(known) != _said(wanted):
                metadata = {**known["metadata"], "labels": wanted["metadata"]["labels"]}
                await self._client.update(ENDPOINT_SLICES, {**wanted, "metadata": metadata})
        for name in held:
            with contextlib.suppress(NotFound):
                await self._client.delete(ENDPOINT_SLICES, name, meta.namespace)


def _said(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return one.get("ports") or [], one.get("endpoints") or [], one["metadata"]["labels"]


def by_selector(stored: Stored[Manifest]) -> Iterable[str]:
    """An index of Services: each under one label of its selector, which every pod behind it has."""
    selector = stored.peek()["spec"].get("selector")
    return (_label(*min(selector.items())),) if selector else ()


def services_of(services: Lister[Manifest]) -> Callable[[Stored[Any]], Iterable[Key]]:
    """A mapper from a pod to the Services that select it."""

    def keys(pod: Stored[Any]) -> Iterable[Key]:
        for label in pod.labels.items():
            for stored in services.by_index(_INDEX, _label(*label), pod.key.namespace):
                if stored.decode()["spec"]["selector"].items() <= pod.labels.items():
                    yield stored.key

    return keys


def _label(name: str, value: str) -> str:
    return f"{name}={value}"


def _service_of_slice(stored: Stored[Any]) -> Iterable[Key]:
    name = stored.labels.get(SERVICE_NAME)
    return (Key(stored.key.namespace, name),) if name else ()


def setup(manager: Manager) -> None:
    cache = manager.cache
    services = cache.lister(SERVICES)
    cache.add_index(SERVICES, _INDEX, by_selector)
    reconciler = EndpointsReconciler(
        manager.client, services, cache.lister(PODS), cache.lister(ENDPOINTS), cache.lister(ENDPOINT_SLICES)
    )
    manager.add(
        Controller(
            NAME,
            reconciler,
            primary=SERVICES,
            watches=(
                Watch(PODS, services_of(services)),
                Watch(ENDPOINTS, lambda stored: (stored.key,)),
                Watch(ENDPOINT_SLICES, _service_of_slice),
            ),
            max_concurrent=2,
        )
    )
