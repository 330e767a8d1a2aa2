"""Services: cluster IPs and node ports from 30000-32767, allocated by looking at what is stored."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import Collection, Object, decode
from kaito.devcluster.apiserver.strategies.base import Strategy, set_default, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CLUSTER_IPS = IPv4Network("127.64.0.0/10" if sys.platform == "linux" else "10.96.0.0/16")
"""On Linux all of 127.0.0.0/8 is this machine, and a proxy can listen there. Services get addresses at random, so that
clusters beside each other do not meet."""
KUBERNETES_IP = str(CLUSTER_IPS[1])
"""The address of the Service ``default/kubernetes``."""
NODE_PORTS = range(30000, 32768)
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_EXPOSED = ("NodePort", "LoadBalancer")


class ServiceStrategy(Strategy):
    name_rule = "service"
    returns_deleted = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        set_default(spec, sessionAffinity="None", type="ClusterIP")
        if spec["sessionAffinity"] == "ClientIP":
            set_default(spec, sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}})
        for port in spec.get("ports") or ():
            set_default(port, protocol="TCP")
            if "port" in port:
                set_default(port, targetPort=port["port"])
        if spec["type"] != "ExternalName":
            set_default(spec, internalTrafficPolicy="Cluster")
        if spec["type"] in _EXPOSED:
            set_default(spec, externalTrafficPolicy="Cluster")
        if spec["type"] == "LoadBalancer":
            set_default(spec, allocateLoadBalancerNodePorts=True)

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        obj["status"] = {"loadBalancer": {}}
        _allocate(obj, collection)

    def prepare_update(self, obj: Object, old: Object, collection: Collection) -> None:
        """Manifests are applied again without the addresses and ports that were allocated."""
        spec, before = spec_of(obj), spec_of(old)
        if spec.get("type") != "ExternalName" and before.get("clusterIP"):
            set_default(spec, clusterIP=before["clusterIP"])
            if spec["clusterIP"] == "":
                spec["clusterIP"] = before["clusterIP"]
        if spec.get("type") in _EXPOSED:
            ports = {
                (port.get("port"), port.get("protocol")): port.get("nodePort") for port in before.get("ports") or ()
            }
            for port in spec.get("ports") or ():
                held = ports.get((port.get("port"), port.get("protocol")))
                if held and not port.get("nodePort"):
                    port["nodePort"] = held
        elif before.get("type") in _EXPOSED:
            for port in spec.get("ports") or ():
                port.pop("nodePort", None)
            spec.pop("externalTrafficPolicy", None)
            spec.pop("allocateLoadBalancerNodePorts", None)
        _allocate(obj, collection)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec = spec_of(obj)
        causes: list[Cause] = []
        if spec.get("type") not in _TYPES:
            causes.append(Cause.not_supported("spec.type", spec.get("type"), _TYPES))
        if spec.get("type") == "ExternalName":
            return causes if spec.get("externalName") else [*causes, Cause.required("spec.externalName")]
        ports = spec.get("ports") or []
        headless = spec.get("clusterIP") == "None"
        if not ports and not headless:
            causes.append(Cause.required("spec.ports"))
        names: set[str] = set()
        for index, port in enumerate(ports):
            field = f"spec.ports[{index}]"
            number = port.get("port")
            if not isinstance(number, int) or not 1 <= number <= 65535:
                causes.append(Cause.invalid(f"{field}.port", number, "must be between 1 and 65535, inclusive"))
            name = port.get("name") or ""
            if len(ports) > 1 and not name:
                causes.append(Cause.required(f"{field}.name"))
            elif name and name in names:
                causes.append(Cause.duplicate(f"{field}.name", name))
            names.add(name)
        address = spec.get("clusterIP") or ""
        if address not in ("", "None") and not _in_range(address):
            causes.append(
                Cause.invalid(
                    "spec.clusterIPs",
                    [address],
                    f"failed to allocate IP {address}: the provided IP is not in the valid range. "
                    f"The range of valid IPs is {CLUSTER_IPS}",
                )
            )
        if old is not None and spec_of(old).get("type") != "ExternalName":
            before = spec_of(old).get("clusterIP")
            if before and address != before:
                causes.append(Cause.invalid("spec.clusterIPs[0]", [address], "may not change once set"))
        return causes


def _in_range(address: str) -> bool:
    try:
        return ip_address(address) in CLUSTER_IPS
    except ValueError:
        return False


def _allocate(obj: Object, collection: Collection) -> None:
    spec = spec_of(obj)
    if spec.get("type") == "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            spec.pop(name, None)
        return
    if not spec.get("clusterIP"):
        taken = {record.fields["spec.clusterIP"] for record in collection}
        spec["clusterIP"] = next(str(address) for address in _candidates(obj) if str(address) not in taken)
    spec["clusterIPs"] = [spec["clusterIP"]]
    set_default(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    if spec.get("type") in _EXPOSED and spec.get("allocateLoadBalancerNodePorts", True):
        used = _node_ports_in_use(collection)
        for port in spec.get("ports") or ():
            if not port.get("nodePort"):
                port["nodePort"] = next(number for number in NODE_PORTS if number not in used)
            used.add(port["nodePort"])


def _candidates(obj: Object) -> Iterator[IPv4Address]:
    """Every usable address once, from a start that depends on the object, as a restarted allocator would be random."""
    size = CLUSTER_IPS.num_addresses - 2
    start = int(obj["metadata"]["uid"].replace("-", "")[:8], 16)
    return (CLUSTER_IPS[1 + (start + step) % size] for step in range(size))


def _node_ports_in_use(collection: Collection) -> set[Any]:
    exposed = (record for record in collection if record.fields["spec.type"] in _EXPOSED)
    return {port.get("nodePort") for record in exposed for port in decode(record.body)["spec"].get("ports") or ()}
