"""Which endpoints a Service leads to, as a pure function."""

from __future__ import annotations

from typing import Any

from kaito.devcluster.kubeproxy.routes import Address, routes_of
from kaito.runtime import Manifest

IP = "127.64.3.9"


def service(*ports: Manifest, **spec: Any) -> Manifest:
    return {"metadata": {"name": "s"}, "spec": {"clusterIP": IP, "type": "ClusterIP", "ports": list(ports), **spec}}


def port(number: int, name: str = "", protocol: str = "TCP") -> Manifest:
    return {"port": number, "protocol": protocol, **({"name": name} if name else {})}


def endpoint(address: str, *, pod: bool = True, **conditions: bool) -> Manifest:
    target = {"targetRef": {"kind": "Pod", "name": "p"}} if pod else {}
    return {"addresses": [address], "conditions": {"ready": True, **conditions}, **target}


def one_slice(*endpoints: Manifest, ports: tuple[Manifest, ...]) -> Manifest:
    return {"addressType": "IPv4", "ports": list(ports), "endpoints": list(endpoints)}


def backends(service: Manifest, *slices: Manifest) -> dict[str, list[str]]:
    served = routes_of(service, slices).served
    return {str(frontend): [str(backend) for backend in route.backends] for frontend, route in served.items()}


def test_each_port_leads_to_the_endpoint_port_of_its_name() -> None:
    behind = one_slice(endpoint("127.128.0.1"), ports=(port(5000, "http"), port(9000, "metrics")))
    other = one_slice(endpoint("127.128.0.2"), ports=(port(6000, "http"),))
    assert backends(service(port(80, "http"), port(90, "metrics")), behind, other) == {
        f"{IP}:80": ["127.128.0.1:5000", "127.128.0.2:6000"],
        f"{IP}:90": ["127.128.0.1:9000"],
    }


def test_endpoints_that_are_not_ready_are_left_out_unless_they_are_all_that_serves() -> None:
    waits = endpoint("127.128.0.1", ready=False, serving=False)
    ends = endpoint("127.128.0.2", ready=False, serving=True, terminating=True)
    ready = endpoint("127.128.0.3")
    ports = (port(5000),)
    assert backends(service(port(80)), one_slice(waits, ends, ready, ports=ports)) == {f"{IP}:80": ["127.128.0.3:5000"]}
    assert backends(service(port(80)), one_slice(waits, ends, ports=ports)) == {f"{IP}:80": ["127.128.0.2:5000"]}
    assert backends(service(port(80)), one_slice(waits, ports=ports)) == {}


def test_pretended_pods_lead_nowhere_and_addresses_that_a_user_wrote_do() -> None:
    pretended, written = endpoint("10.244.0.7"), endpoint("10.1.2.3", pod=False)
    ports = (port(5000),)
    assert backends(service(port(80)), one_slice(pretended, ports=ports)) == {}
    assert backends(service(port(80)), one_slice(pretended, written, ports=ports)) == {f"{IP}:80": ["10.1.2.3:5000"]}


def test_what_has_no_address_of_this_machine_is_not_served() -> None:
    behind = one_slice(endpoint("127.128.0.1"), ports=(port(5000),))
    for spec in ({"clusterIP": "None"}, {"clusterIP": "10.96.0.4"}, {"type": "ExternalName", "clusterIP": ""}):
        assert backends(service(port(80), **spec), behind) == {}


def test_other_protocols_than_tcp_are_said_to_be_unserved() -> None:
    ports = (port(53, "dns", "UDP"), port(54, "dns-tcp"))
    routes = routes_of(service(*ports), [one_slice(endpoint("127.128.0.1"), ports=ports)])
    assert routes.unserved == ("53/UDP",)
    assert list(routes.served) == [Address(IP, 54)]


def test_clients_stay_with_a_backend_where_the_service_asks_for_it() -> None:
    behind = one_slice(endpoint("127.128.0.1"), ports=(port(5000),))
    sticky = service(port(80), sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})
    (route,) = routes_of(sticky, [behind]).served.values()
    assert route.affinity == 60.0
