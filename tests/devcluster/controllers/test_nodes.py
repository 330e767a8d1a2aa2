"""Those who write to a Node at the same time do not get in each other's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kaito.devcluster.apiserver import ApiServer
from kaito.devcluster.controllers.nodes import NOT_READY_TAINT, NodeReconciler
from kaito.devcluster.kubelet.nodes import NodeReporter, system_node
from kaito.runtime import (
    NODES,
    Client,
    Key,
    Lister,
    Manifest,
    Material,
    Request,
    Rest,
    RestConfig,
    RuntimeMetrics,
    StaticToken,
    Stored,
    SystemClock,
    TlsConfig,
)
from kaito.runtime.cache.store import Store

GPUS = {"type": "GPUsHealthy", "status": "True", "reason": "Ok", "message": "all"}


@pytest.fixture
async def client(api_server: ApiServer) -> AsyncIterator[Client]:
    tls = TlsConfig(authority=Material(data=api_server.ca_pem))
    config = RestConfig(server=api_server.url, credentials=StaticToken(api_server.admin_token), tls=tls)
    rest = Rest(config, RuntimeMetrics())
    yield Client(rest)
    await rest.aclose()


class Silent:
    def event(self, *_: Any, **__: Any) -> None: ...


def late(node: Manifest) -> Lister[Manifest]:
    """A cache that has not heard of what happened after ``node``."""
    store: Store[Manifest] = Store(NODES, on_index_error=lambda error: None)
    store.add_index("kubelet/address", lambda _: ())
    store.upsert(Stored(NODES, NODES.encode(node)))
    return Lister(store, lambda: None)


async def report(client: Client, name: str, *conditions: Manifest) -> Manifest:
    return await client.patch(NODES, name, {"status": {"conditions": list(conditions)}}, subresource="status")


async def test_a_report_leaves_the_conditions_of_others(client: Client) -> None:
    node = await client.create(NODES, system_node())
    name = node["metadata"]["name"]
    await report(client, name, GPUS)
    await client.patch(NODES, name, {"spec": {"unschedulable": True}})
    reporter = NodeReporter(client, late(node), Silent(), SystemClock())  # type: ignore[arg-type]
    await reporter.reconcile(Request(Key("", name)))
    held = await client.get(NODES, name)
    assert {item["type"]: item["status"] for item in held["status"]["conditions"]} == {
        "GPUsHealthy": "True",
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert held["spec"]["unschedulable"] is True


async def test_taints_are_set_beside_a_report_and_not_over_other_taints(client: Client) -> None:
    name = (await client.create(NODES, system_node()))["metadata"]["name"]
    node = await report(client, name, {"type": "Ready", "status": "False"})
    await report(client, name, {"type": "Ready", "status": "False"}, GPUS)
    await NodeReconciler(client, late(node)).reconcile(Request(Key("", name)))
    tainted = await client.get(NODES, name)
    assert [taint["key"] for taint in tainted["spec"]["taints"]] == [NOT_READY_TAINT]

    ready = await report(client, name, {"type": "Ready", "status": "True"})
    theirs = [*tainted["spec"]["taints"], {"key": "theirs", "effect": "NoSchedule"}]
    seen = await client.patch(NODES, name, {"spec": {"taints": theirs}})
    await NodeReconciler(client, late(ready)).reconcile(Request(Key("", name)))
    assert [taint["key"] for taint in (await client.get(NODES, name))["spec"]["taints"]] == [NOT_READY_TAINT, "theirs"]
    await NodeReconciler(client, late(seen)).reconcile(Request(Key("", name)))
    assert [taint["key"] for taint in (await client.get(NODES, name))["spec"]["taints"]] == ["theirs"]
