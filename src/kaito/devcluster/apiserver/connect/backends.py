"""Where a pod or a Service is reached: only ever on this machine, as far as it is pods that are behind it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

from kaito.runtime import BadRequest, ServiceUnavailable

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PodAddress:
    name: str
    ip: str


class Target(NamedTuple):
    """``[scheme:]name[:port]`` of a proxy's path; the port is a number, a name or empty."""

    scheme: str
    name: str
    port: str

    @staticmethod
    def parse(text: str) -> Target:
        parts = text.split(":")
        match parts:
            case [name]:
                found = Target("http", name, "")
            case [name, port]:
                found = Target("http", name, port)
            case [scheme, name, port] if scheme in ("http", "https", ""):
                found = Target(scheme or "http", name, port)
            case _:
                found = Target("", "", "")
        if not found.name:
            raise BadRequest(f'invalid request "{text}": expected [http:|https:]name[:port]')
        return found


def pod_address(pod: Object) -> PodAddress:
    """Raises BadRequest for a pod that has no address of this machine, or does not run."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    phase, ip = status.get("phase", "Pending"), status.get("podIP", "")
    if phase != "Running" or not ip:
        raise BadRequest(f"pod {name} is not running. Current status={phase}")
    if not ip_address(ip).is_loopback:
        raise BadRequest(f"pod {name} is simulated: no process runs in it, and nothing listens at its address {ip}")
    return PodAddress(name, ip)


def pod_origin(pod: Object, target: Target) -> str:
    """The URL of a pod's port; by default of the first that it declares. Raises BadRequest."""
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports") or ()]
    if target.port.isdecimal():
        number = int(target.port)
    else:
        numbers = [port["containerPort"] for port in ports if not target.port or port.get("name") == target.port]
        if not numbers and target.port:
            raise BadRequest(f"pod {target.name} has no port named {target.port}")
        number = numbers[0] if numbers else 443 if target.scheme == "https" else 80
    return f"{target.scheme}://{pod_address(pod).ip}:{number}"


def service_origin(service: Object, endpoints: Object | None, target: Target) -> str:
    """The URL of one of the ready endpoints of a Service's port, by chance. Raises ServiceUnavailable."""
    ports: list[Object] = service["spec"].get("ports") or []
    wanted = target.port
    if wanted.isdecimal():
        named = [port.get("name", "") for port in ports if port["port"] == int(wanted)]
        if not named:
            raise ServiceUnavailable(f'no service port {wanted} found for service "{target.name}"')
        wanted = named[0]
    elif not wanted and len(ports) == 1:
        wanted = ports[0].get("name", "")
    found = tuple(_ready(endpoints or {}, wanted))
    if not found:
        raise ServiceUnavailable(f'no endpoints available for service "{target.name}"')
    there = [address for address, of_pod in found if not of_pod or ip_address(address.rpartition(":")[0]).is_loopback]
    if not there:
        raise ServiceUnavailable(
            f'the pods of service "{target.name}" are simulated: no process runs in them, and nothing listens'
        )
    return f"{target.scheme}://{random.choice(there)}"


def _ready(endpoints: Object, name: str) -> Iterator[tuple[str, bool]]:
    """``ip:port`` of each ready endpoint, and whether it is a pod's."""
    for subset in endpoints.get("subsets") or ():
        for port in subset.get("ports") or ():
            if port.get("name", "") == name:
                for address in subset.get("addresses") or ():
                    yield f"{address['ip']}:{port['port']}", (address.get("targetRef") or {}).get("kind") == "Pod"
