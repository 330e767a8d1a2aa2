"""Which address of a Service leads where: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, NamedTuple


class Address(NamedTuple):
    """An IPv4 address and a TCP port."""

    ip: str
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections to one port of a Service go."""

    backends: tuple[Address, ...]
    affinity: float = 0.0
    """Seconds since its last connection for which a client stays with its backend; 0 for not at all."""


@dataclass(frozen=True, slots=True)
class Routes:
    """``served`` by frontend; ``unserved``: the ports that are not forwarded, as ``53/UDP``."""

    served: Mapping[Address, Route]
    unserved: tuple[str, ...] = ()


NO_ROUTES = Routes({})


def routes_of(service: Mapping[str, Any], slices: Iterable[Mapping[str, Any]]) -> Routes:
    """The ports of a Service that have endpoints to forward to. None for a headless Service, or one whose address is not
    of loopback."""
    spec = service["spec"]
    address = spec.get("clusterIP") or "None"
    if spec.get("type") == "ExternalName" or address == "None" or not is_loopback(address):
        return NO_ROUTES
    affinity = 0.0
    if spec.get("sessionAffinity") == "ClientIP":
        affinity = float(spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"])
    held = [one for one in slices if one.get("addressType") == "IPv4"]
    served: dict[Address, Route] = {}
    unserved = []
    for port in spec.get("ports") or ():
        protocol = port.get("protocol", "TCP")
        if protocol != "TCP":
            unserved.append(f"{port['port']}/{protocol}")
        elif found := _backends(held, port.get("name", "")):
            served[Address(address, port["port"])] = Route(found, affinity)
    return Routes(served, tuple(unserved))


def is_loopback(address: str) -> bool:
    return IPv4Address(address).is_loopback


def _backends(slices: Iterable[Mapping[str, Any]], name: str) -> tuple[Address, ...]:
    """The ready endpoints behind the port of that name; where there are none, those that serve while they terminate."""
    ready, serving = set(), set()
    for one in slices:
        numbers = [port["port"] for port in one.get("ports") or () if (port.get("name") or "") == name]
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            found = {Address(endpoint["addresses"][0], number) for number in numbers if _is_there(endpoint)}
            if conditions.get("ready", True):
                ready |= found
            elif conditions.get("serving") and conditions.get("terminating"):
                serving |= found
    return tuple(sorted(ready or serving))


def _is_there(endpoint: Mapping[str, Any]) -> bool:
    """A pretended pod has an address that is not of this machine, and of no other that means to be asked."""
    is_pod = (endpoint.get("targetRef") or {}).get("kind") == "Pod"
    return not is_pod or is_loopback(endpoint["addresses"][0])
