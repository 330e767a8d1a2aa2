"""Endpoints, claims, taints, discovery and claims of ownership, as pure functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from kaito.devcluster.controllers import conditions, endpoints, nodes, volumes
from kaito.devcluster.controllers.namespaces import terminating_conditions
from kaito.devcluster.controllers.ownership import sort_claims
from kaito.runtime import PODS, LabelSelector, Manifest, ObjectMeta, Stored

NOW = datetime(2024, 11, 16, 12, tzinfo=UTC)


def service(**spec: Any) -> Manifest:
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], **spec},
    }


def backend(name: str, port: int = 5000, ready: bool = True, **metadata: Any) -> Manifest:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, **metadata},
        "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "phase": "Running",
            "podIP": f"10.244.0.{len(name)}",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def test_pods_with_other_ports_are_in_other_subsets_and_slices() -> None:
    found = endpoints.backends(service(), [backend("a"), backend("bb", 6000), backend("ccc", ready=False)])
    subsets = endpoints.endpoints(service(), found)["subsets"]
    assert [
        (s["ports"][0]["port"], len(s.get("addresses", ())), len(s.get("notReadyAddresses", ()))) for s in subsets
    ] == [
        (5000, 1, 1),
        (6000, 1, 0),
    ]
    made = endpoints.slices(service(), {"uid": "s"}, found)
    assert sorted(item["ports"][0]["port"] for item in made) == [5000, 6000]
    assert len({item["metadata"]["name"] for item in made}) == 2


def test_terminating_pods_serve_on_in_slices_only() -> None:
    found = endpoints.backends(service(), [backend("a", deletionTimestamp="2024-11-16T12:00:00Z")])
    assert "subsets" not in endpoints.endpoints(service(), found)
    (made,) = endpoints.slices(service(), {"uid": "s"}, found)
    assert made["endpoints"][0]["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_finished_pods_and_pods_without_address_are_left_out() -> None:
    finished, nowhere = backend("a"), backend("b")
    finished["status"]["phase"] = "Succeeded"
    del nowhere["status"]["podIP"]
    assert endpoints.backends(service(), [finished, nowhere]) == []
    (empty,) = endpoints.slices(service(clusterIP="None"), {"uid": "s"}, [])
    assert empty["endpoints"] == []
    assert empty["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def claim(size: str = "10Gi", **spec: Any) -> Manifest:
    body = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **spec}
    return {"metadata": {"name": "c", "namespace": "default", "uid": "c-uid"}, "spec": body}


def volume(name: str, size: str, **spec: Any) -> Manifest:
    body = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], **spec}
    return {"metadata": {"name": name}, "spec": body}


def test_the_smallest_volume_that_fits_is_taken() -> None:
    taken = volume("taken", "10Gi", claimRef={"namespace": "default", "name": "other", "uid": "x"})
    found = volumes.fitting(claim(), [volume("large", "20Gi"), volume("right", "12Gi"), volume("small", "1Gi"), taken])
    assert found is not None
    assert found["metadata"]["name"] == "right"
    reserved = volume("mine", "20Gi", claimRef={"namespace": "default", "name": "c"})
    assert volumes.fitting(claim(), [volume("right", "12Gi"), reserved]) is reserved
    assert volumes.fitting(claim(accessModes=["ReadWriteMany"]), [volume("a", "20Gi")]) is None
    assert volumes.fitting(claim(storageClassName="fast"), [volume("a", "20Gi")]) is None
    assert volumes.new_volume(claim())["spec"]["claimRef"]["uid"] == "c-uid"


def test_taints_follow_conditions() -> None:
    other = {"key": "sku", "effect": "NoSchedule"}
    waiting = {"key": nodes.NOT_READY_TAINT, "effect": "NoSchedule"}
    node: Manifest = {"metadata": {"name": "n"}, "spec": {"taints": [other, waiting]}}
    assert nodes.wanted_taints(node) == [other, waiting]
    node["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert nodes.wanted_taints(node) == [other]
    node["spec"] = {"unschedulable": True}
    node["status"]["conditions"][0]["status"] = "Unknown"
    assert {taint["key"] for taint in nodes.wanted_taints(node)} == {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unschedulable",
    }


def test_conditions_move_their_time_only_with_their_status() -> None:
    later = NOW + timedelta(seconds=60)
    one = conditions.put([], "Ready", "False", "Starting", "", NOW)
    assert conditions.put(one, "Ready", "False", "Starting", "", later) == one
    moved = conditions.put(one, "Ready", "False", "Failing", "why", later, stamp="lastUpdateTime")
    assert moved[0]["lastTransitionTime"] == "2024-11-16T12:00:00Z"
    assert moved[0]["lastUpdateTime"] == "2024-11-16T12:01:00Z"
    assert conditions.put(one, "Ready", "True", "", "", later)[0] == {
        "type": "Ready",
        "status": "True",
        "lastTransitionTime": "2024-11-16T12:01:00Z",
    }


def test_a_namespace_says_what_keeps_it() -> None:
    left = {"pods": [{"finalizers": ["a"]}, {}], "secrets": [{"finalizers": ["a", "b"]}]}
    told = {item["type"]: item for item in terminating_conditions({}, left, NOW)}
    assert told["NamespaceContentRemaining"]["message"] == (
        "Some resources are remaining: pods has 2 resource instances, secrets has 1 resource instances"
    )
    assert told["NamespaceFinalizersRemaining"]["message"].endswith(
        "a in 2 resource instances, b in 1 resource instances"
    )


def pod(name: str, owner: str = "", **labels: str) -> Stored[Any]:
    metadata: Manifest = {"name": name, "namespace": "default", "uid": name, "labels": labels}
    if owner:
        metadata["ownerReferences"] = [{"kind": "X", "apiVersion": "v1", "name": "o", "uid": owner, "controller": True}]
    return Stored(PODS, json.dumps({"kind": "Pod", "metadata": metadata}).encode())


def test_claims_adopt_orphans_and_release_strays() -> None:
    selector = LabelSelector.of({"app": "web"})
    found = [
        pod("mine", "me", app="web"),
        pod("stray", "me"),
        pod("orphan", app="web"),
        pod("theirs", "you", app="web"),
    ]
    claims = sort_claims(ObjectMeta(name="o", uid="me"), selector, found)
    assert [[item.key.name for item in group] for group in (claims.owned, claims.adopt, claims.release)] == [
        ["mine"],
        ["orphan"],
        ["stray"],
    ]
    going = sort_claims(ObjectMeta(name="o", uid="me", deletion_timestamp="2024-11-16T12:00:00Z"), selector, found)
    assert [item.key.name for item in going.owned] == ["mine", "stray"]
    assert (going.adopt, going.release) == ([], [])
