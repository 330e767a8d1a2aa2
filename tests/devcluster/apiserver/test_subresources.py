"""Binding, eviction, scale, logs, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pytest

from kaito.devcluster.apiserver import LogOptions
from kaito.runtime import BadRequest

if TYPE_CHECKING:
    from devcluster.harness import Kube

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def pod(kube: Kube) -> dict[str, Any]:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    created: dict[str, Any] = (await kube.post(PODS, body)).body
    return created


async def bind(kube: Kube, node: str = "n") -> Any:
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": node},
    }
    return await kube.post(f"{PODS}/p/binding", binding)


async def test_a_pod_is_bound_once(kube: Kube, pod: dict[str, Any]) -> None:
    answer = await bind(kube)
    assert (answer.status, answer.body["status"]) == (201, "Success")
    bound = (await kube.get(f"{PODS}/p")).body
    assert bound["spec"]["nodeName"] == "n"
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    again = await bind(kube, "m")
    assert again.status == 409
    assert 'pod p is already assigned to node "n"' in again.body["message"]
    found = await kube.get(PODS, fieldSelector="spec.nodeName=n")
    assert len(found.body["items"]) == 1


async def test_evictions_respect_disruption_budgets(kube: Kube, pod: dict[str, Any]) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}}
    await kube.post(budgets, budget | {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}

    early = await kube.post(f"{PODS}/p/eviction", eviction)
    assert early.status == 429
    assert "still being processed" in early.body["details"]["causes"][0]["message"]
    await kube.merge(f"{budgets}/b/status", {"status": {"observedGeneration": 1, "disruptionsAllowed": 0}})
    refused = await kube.post(f"{PODS}/p/eviction", eviction)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
    assert refused.body["details"]["causes"][0]["reason"] == "DisruptionBudget"
    await kube.merge(f"{budgets}/b/status", {"status": {"disruptionsAllowed": 1}})
    assert (await kube.post(f"{PODS}/p/eviction", eviction)).status == 201
    assert (await kube.get(f"{PODS}/p")).status == 404


async def test_scale_of_a_deployment(kube: Kube) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    spec = {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }
    await kube.post(path, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
    scale = (await kube.get(f"{path}/d/scale")).body
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0, "selector": "app=x"})
    scaled = await kube.merge(f"{path}/d/scale", {"spec": {"replicas": 5}})
    assert scaled.body["spec"] == {"replicas": 5}
    grown = (await kube.get(f"{path}/d")).body
    assert (grown["spec"]["replicas"], grown["metadata"]["generation"]) == (5, 2)
    assert (await kube.put(f"{path}/d/scale", scale)).status == 409
    assert (await kube.merge(f"{path}/d/scale", {"spec": {"replicas": -1}})).status == 422
    assert (await kube.merge(f"{path}/d/scale", {"spec": {"replicas": "x"}})).status == 400


async def test_logs_come_from_the_provider(kube: Kube, pod: dict[str, Any]) -> None:
    assert (await kube.get(f"{PODS}/p/log")).status == 501
    asked: list[LogOptions] = []

    def provider(obj: dict[str, Any], options: LogOptions) -> AsyncGenerator[bytes, None]:
        asked.append(options)
        if options.previous:
            raise BadRequest(f"previous terminated container {options.container} in pod p not found")

        async def lines() -> AsyncGenerator[bytes, None]:
            yield b"one\n"
            yield b"two\n"

        return lines()

    kube.server.log_provider = provider
    answer = await kube.get(f"{PODS}/p/log", tailLines="2", follow="true")
    assert (answer.status, answer.text) == (200, "one\ntwo\n")
    assert asked == [LogOptions(container="c", follow=True, tail_lines=2)]
    assert (await kube.get(f"{PODS}/p/log", previous="true")).status == 400
    assert (await kube.get(f"{PODS}/p/log", container="none")).status == 400


async def test_what_is_not_there_is_said(kube: Kube, pod: dict[str, Any]) -> None:
    refused = await kube.post(f"{PODS}/p/exec", {})
    assert (refused.status, refused.body["reason"]) == (501, "NotImplemented")
    assert (await kube.get(f"{PODS}/p/nonsense")).status == 404
    assert (await kube.get("/apis/none.example.com/v1/things")).status == 404
    assert (await kube.get("/nonsense")).status == 404
    assert (await kube.call("PUT", PODS, {})).status == 405
    assert (await kube.delete("/api/v1/namespaces")).status == 405
    assert (await kube.get("/apis/authorization.k8s.io/v1/subjectaccessreviews")).status == 405
