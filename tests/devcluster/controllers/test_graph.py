"""The graph of owners, told what watches would say."""

from __future__ import annotations

import json
from typing import Any

from kaito.devcluster.controllers.graph import Graph, judge
from kaito.runtime import CONFIG_MAPS, NAMESPACES, SECRETS, Stored


def stored(
    uid: str, *owners: str, namespace: str = "default", resource: Any = CONFIG_MAPS, **metadata: Any
) -> Stored[Any]:
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": True}
        for owner in owners
    ]
    meta: dict[str, Any] = {"name": uid, "uid": uid, "resourceVersion": "1", **metadata}
    if resource.namespaced:
        meta["namespace"] = namespace
    if references:
        meta["ownerReferences"] = references
    return Stored(resource, json.dumps({"kind": resource.kind, "metadata": meta}, separators=(",", ":")).encode())


def leaving(*finalizers: str) -> dict[str, Any]:
    return {"deletionTimestamp": "2024-11-16T12:00:00Z", "finalizers": list(finalizers)}


def test_objects_without_owners_cost_no_look() -> None:
    graph = Graph()
    assert graph.observe(stored("a")) == []
    assert graph.observe(stored("b", "a")) == ["b"]
    assert [node.uid for node in graph.dependents("a")] == ["b"]
    assert graph.observe(stored("b", "a", labels={"x": "y"})) == []


def test_dependents_are_found_whichever_is_seen_first() -> None:
    graph = Graph()
    graph.observe(stored("b", "a"))
    assert [node.uid for node in graph.dependents("a")] == ["b"]
    graph.observe(stored("a"))
    assert [node.uid for node in graph.dependents("a")] == ["b"]
    assert graph.forget("a") == ["b"]
    assert graph.known_absent("a")
    assert [node.uid for node in graph.dependents("a")] == ["b"]
    graph.forget("b")
    assert graph.dependents("a") == []
    assert len(graph) == 0


def test_changed_owners_are_followed() -> None:
    graph = Graph()
    for one in (stored("a"), stored("b"), stored("c", "a")):
        graph.observe(one)
    assert graph.observe(stored("c", "b")) == ["c"]
    assert graph.dependents("a") == []
    assert [node.uid for node in graph.dependents("b")] == ["c"]
    assert graph.observe(stored("c")) == []
    assert graph.dependents("b") == []


def test_a_foreground_deletion_stirs_dependents_and_their_end_stirs_the_owner() -> None:
    graph = Graph()
    graph.observe(stored("a"))
    graph.observe(stored("b", "a"))
    assert graph.observe(stored("a", **leaving("foregroundDeletion"))) == ["a", "b"]
    node = graph.node("a")
    assert node is not None
    assert node.awaits_dependents
    assert [blocking.uid for blocking in graph.blocking("a")] == ["b"]
    assert graph.forget("b") == ["a"]
    assert graph.blocking("a") == []


def test_owners_in_another_namespace_are_none() -> None:
    graph = Graph()
    graph.observe(stored("far", namespace="other"))
    graph.observe(stored("child", "far"))
    node = graph.node("child")
    assert node is not None
    assert graph.owner_node(node, node.owners[0]) is None
    graph.observe(stored("near"))
    graph.observe(stored("child", "near"))
    assert graph.owner_node(node, node.owners[0]) is not None


def test_an_owner_of_another_kind_is_none() -> None:
    graph = Graph()
    graph.observe(stored("x", resource=SECRETS))
    graph.observe(stored("ns", resource=NAMESPACES))
    graph.observe(stored("child", "x"))
    node = graph.node("child")
    assert node is not None
    assert graph.owner_node(node, node.owners[0]) is None


def test_a_resource_that_is_served_no_more_leaves_no_absent_owners() -> None:
    graph = Graph()
    graph.observe(stored("a"))
    graph.observe(stored("b", "a", resource=SECRETS))
    assert graph.forget_resource(CONFIG_MAPS) == ["b"]
    assert graph.node("a") is None
    assert not graph.known_absent("a")
    assert [node.uid for node in graph.dependents("a")] == ["b"]


def test_verdicts() -> None:
    graph = Graph()
    graph.observe(stored("child", "a", "b", "c"))
    node = graph.node("child")
    assert node is not None
    verdict = judge(node, existing=["a", "b"], waiting=["b"])
    assert (verdict.solid, verdict.waiting, verdict.dangling) == (("a",), ("b",), ("c",))
