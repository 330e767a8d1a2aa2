"""What is found without looking at everything: nodes with their pods, pods that wait, Services of a pod."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kaito.devcluster.controllers import endpoints, views
from kaito.devcluster.controllers.placement import NodeView
from kaito.runtime import NODES, PODS, SERVICES, Lister, Manifest, Resource, Stored
from kaito.runtime.cache.store import Store


class Cached:
    """The store of a cache, and its reader."""

    def __init__(self, resource: Resource[Manifest], **indexes: Callable[[Stored[Any]], Iterable[str]]) -> None:
        self._resource = resource
        self._store: Store[Manifest] = Store(resource, on_index_error=lambda error: None)
        for name, function in indexes.items():
            self._store.add_index(name.replace("_", "/"), function)
        self.lister: Lister[Manifest] = Lister(self._store, lambda: None)
        self._version = 0

    def put(self, body: Manifest) -> Stored[Manifest]:
        self._version += 1
        full = {"apiVersion": self._resource.api_version, "kind": self._resource.kind, **body}
        full["metadata"] = {"uid": body["metadata"]["name"], "resourceVersion": str(self._version), **body["metadata"]}
        stored = Stored(self._resource, self._resource.encode(full))
        self._store.upsert(stored)
        return stored


def node(name: str, *, taints: Iterable[str] = (), cordoned: bool = False, **metadata: Any) -> Manifest:
    spec = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints], "unschedulable": cordoned}
    return {"metadata": {"name": name, **metadata}, "spec": spec}


def pod(name: str, *, on: str = "", phase: str = "Pending", **spec: Any) -> Manifest:
    where = {"nodeName": on} if on else {}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {**where, **spec}, "status": {"phase": phase}}


def on_nodes(found: Iterable[NodeView]) -> dict[str, set[str]]:
    return {view.name: {item["metadata"]["name"] for item in view.pods} for view in found}


def test_only_what_has_changed_is_looked_at_again() -> None:
    nodes, pods = Cached(NODES), Cached(PODS, scheduler=views.index)
    for name in ("a", "b"):
        nodes.put(node(name))
    pods.put(pod("one", on="a"))
    look = views.NodeViews(nodes.lister, pods.lister)
    before = {view.name: view for view in look({})}
    pods.put(pod("two", on="b"))
    after = {view.name: view for view in look({})}
    assert after["a"] is before["a"]
    assert on_nodes(after.values()) == {"a": {"one"}, "b": {"two"}}
    pods.put(pod("one", on="a", phase="Succeeded"))
    nodes.put(node("b", deletionTimestamp="2024-11-16T12:00:00Z"))
    assert on_nodes(look({})) == {"a": set()}


def test_a_pod_that_is_only_known_to_be_bound_counts() -> None:
    nodes, pods = Cached(NODES), Cached(PODS, scheduler=views.index)
    nodes.put(node("a"))
    bound = pods.put(pod("one"))
    look = views.NodeViews(nodes.lister, pods.lister)
    assert on_nodes(look({})) == {"a": set()}
    assert on_nodes(look({"a": [bound]})) == {"a": {"one"}}
    assert on_nodes(look({})) == {"a": set()}


def test_a_node_wakes_the_pods_that_it_may_take() -> None:
    pods = Cached(PODS, scheduler=views.index)
    tolerant = [{"key": "sku", "operator": "Exists"}]
    pods.put(pod("plain"))
    pods.put(pod("tolerant", tolerations=tolerant))
    pods.put(pod("elsewhere", nodeSelector={"zone": "1"}))
    pods.put(pod("placed", on="a"))
    pods.put(pod("gated", schedulingGates=[{"name": "g"}]))
    pods.put(pod("of-another", schedulerName="mine"))
    waiting = views.Waiting(pods.lister)

    def woken(body: Manifest) -> set[str]:
        return {key.name for key in waiting.for_node(body)}

    assert woken(node("b")) == {"plain", "tolerant"}
    assert woken(node("b", taints=["sku"])) == {"tolerant"}
    assert woken(node("b", labels={"zone": "1"})) == {"plain", "tolerant", "elsewhere"}
    assert woken(node("b", cordoned=True)) == set()
    pods.put(pod("plain", on="b"))
    pods.put(pod("tolerant", nodeSelector={"zone": "2"}))
    assert woken(node("b", labels={"zone": "1"})) == {"elsewhere"}


def test_the_services_of_a_pod_are_those_whose_whole_selector_it_has() -> None:
    services = Cached(SERVICES, endpoints_selector=endpoints.by_selector)
    for name, selector in (
        ("web", {"app": "web"}),
        ("front", {"tier": "front", "app": "web"}),
        ("back", {"app": "web", "tier": "back"}),
        ("other", {"app": "other"}),
        ("by-hand", None),
    ):
        services.put({"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": selector}})
    keys = endpoints.services_of(services.lister)
    body = pod("p")
    body["metadata"]["labels"] = {"app": "web", "tier": "front", "more": "x"}
    found = Cached(PODS).put(body)
    assert sorted(key.name for key in keys(found)) == ["front", "web"]
    body["metadata"]["namespace"] = "elsewhere"
    assert list(keys(Cached(PODS).put(body))) == []
