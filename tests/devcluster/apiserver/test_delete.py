"""Deletion: finalizers, policies, grace periods, preconditions, namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devcluster.harness import Kube

DEFAULT = "/api/v1/namespaces/default"
CONFIG_MAPS = f"{DEFAULT}/configmaps"


async def config_map(kube: Kube, name: str = "a", **metadata: Any) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}
    answer = await kube.post(CONFIG_MAPS, body)
    assert answer.status == 201
    created: dict[str, Any] = answer.body
    return created


async def pod(kube: Kube, name: str = "p", *, bound: bool = True) -> None:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "x"}]}
    if bound:
        spec["nodeName"] = "n"
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec}
    assert (await kube.post(f"{DEFAULT}/pods", body)).status == 201


async def test_without_finalizers_an_object_goes_at_once(kube: Kube) -> None:
    uid = (await config_map(kube))["metadata"]["uid"]
    answer = await kube.delete(f"{CONFIG_MAPS}/a")
    assert (answer.status, answer.body["kind"], answer.body["status"]) == (200, "Status", "Success")
    assert answer.body["details"] == {"name": "a", "kind": "configmaps", "uid": uid}
    assert (await kube.delete(f"{CONFIG_MAPS}/a")).status == 404


async def test_finalizers_hold_an_object_until_the_last_is_gone(kube: Kube) -> None:
    await config_map(kube, finalizers=["example.com/a", "example.com/b"])
    answer = await kube.delete(f"{CONFIG_MAPS}/a")
    assert answer.body["kind"] == "ConfigMap"
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
    marked = answer.body["metadata"]["deletionTimestamp"]
    again = await kube.delete(f"{CONFIG_MAPS}/a")
    assert again.rv == answer.rv
    assert again.body["metadata"]["deletionTimestamp"] == marked

    added = await kube.merge(
        f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": ["example.com/a", "example.com/b", "example.com/c"]}}
    )
    assert added.status == 422
    assert "no new finalizers can be added if the object is being deleted" in added.body["message"]
    assert (await kube.merge(f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": ["example.com/b"]}})).status == 200
    watch = await kube.watch(CONFIG_MAPS, resourceVersion=str(kube.server.revision))
    assert (await kube.merge(f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": None}})).status == 200
    assert (await kube.get(f"{CONFIG_MAPS}/a")).status == 404
    assert await watch.take(1) == [("DELETED", "a")]


async def test_marking_for_deletion_counts_as_a_generation(kube: Kube) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "n", "finalizers": ["x.com/y"]},
    }
    assert (await kube.post(path, policy | {"spec": {"podSelector": {}}})).body["metadata"]["generation"] == 1
    assert (await kube.delete(f"{path}/n")).body["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("policy", "finalizers"),
    [("Background", None), ("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"])],
)
async def test_propagation_policies(kube: Kube, policy: str, finalizers: list[str] | None) -> None:
    await config_map(kube)
    answer = await kube.delete(
        f"{CONFIG_MAPS}/a", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
    )
    if finalizers is None:
        assert answer.body["kind"] == "Status"
        return
    assert answer.body["metadata"]["finalizers"] == finalizers
    changed = await kube.delete(f"{CONFIG_MAPS}/a", {"propagationPolicy": "Background"})
    assert changed.body["kind"] == "Status"


async def test_jobs_orphan_by_default(kube: Kube) -> None:
    path = "/apis/batch/v1/namespaces/default/jobs"
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}}
    await kube.post(path, job)
    assert (await kube.delete(f"{path}/j")).body["metadata"]["finalizers"] == ["orphan"]


async def test_preconditions(kube: Kube) -> None:
    body = await config_map(kube)
    for wrong in ({"uid": "x"}, {"resourceVersion": "1"}):
        answer = await kube.delete(f"{CONFIG_MAPS}/a", {"preconditions": wrong})
        assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    right = {"uid": body["metadata"]["uid"], "resourceVersion": body["metadata"]["resourceVersion"]}
    assert (await kube.delete(f"{CONFIG_MAPS}/a", {"preconditions": right})).status == 200


async def test_bad_options(kube: Kube) -> None:
    await config_map(kube)
    for options in ({"propagationPolicy": "Never"}, {"gracePeriodSeconds": -1}, {"dryRun": ["Maybe"]}):
        assert (await kube.delete(f"{CONFIG_MAPS}/a", options)).status == 422
    assert (await kube.delete(f"{CONFIG_MAPS}/a", {"kind": "Pod"})).status == 400


async def test_running_pods_get_their_grace_period(kube: Kube) -> None:
    await pod(kube)
    marked = (await kube.delete(f"{DEFAULT}/pods/p")).body
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    longer = await kube.delete(f"{DEFAULT}/pods/p", {"gracePeriodSeconds": 60})
    assert longer.body["metadata"] == marked["metadata"]
    shorter = await kube.delete(f"{DEFAULT}/pods/p", gracePeriodSeconds="5")
    assert shorter.body["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter.body["metadata"]["deletionTimestamp"] < marked["metadata"]["deletionTimestamp"]
    gone = await kube.delete(f"{DEFAULT}/pods/p", {"gracePeriodSeconds": 0})
    assert gone.body["kind"] == "Pod"
    assert (await kube.get(f"{DEFAULT}/pods/p")).status == 404


async def test_pods_that_nobody_runs_go_at_once(kube: Kube) -> None:
    await pod(kube, bound=False)
    await kube.delete(f"{DEFAULT}/pods/p")
    assert (await kube.get(f"{DEFAULT}/pods/p")).status == 404
    await pod(kube)
    await kube.merge(f"{DEFAULT}/pods/p/status", {"status": {"phase": "Succeeded"}})
    await kube.delete(f"{DEFAULT}/pods/p")
    assert (await kube.get(f"{DEFAULT}/pods/p")).status == 404


async def test_delete_collection_honours_selectors(kube: Kube) -> None:
    await config_map(kube, "a", labels={"x": "1"})
    await config_map(kube, "b", labels={"x": "2"})
    await config_map(kube, "c", labels={"x": "1"})
    answer = await kube.delete(CONFIG_MAPS, labelSelector="x=1")
    assert [item["metadata"]["name"] for item in answer.body["items"]] == ["a", "c"]
    left = await kube.get(CONFIG_MAPS)
    assert [item["metadata"]["name"] for item in left.body["items"]] == ["b"]


async def test_namespaces_terminate_and_are_finalized(kube: Kube) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}
    created = (await kube.post("/api/v1/namespaces", namespace)).body
    assert created["spec"]["finalizers"] == ["kubernetes"]
    assert created["metadata"]["labels"] == {"kubernetes.io/metadata.name": "demo"}
    assert created["status"] == {"phase": "Active"}

    terminating = (await kube.delete("/api/v1/namespaces/demo")).body
    assert terminating["status"]["phase"] == "Terminating"
    refused = await kube.post(
        "/api/v1/namespaces/demo/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    )
    assert refused.status == 403
    assert refused.body["details"]["causes"][0]["reason"] == "NamespaceTerminating"

    finalized = await kube.put("/api/v1/namespaces/demo/finalize", terminating | {"spec": {"finalizers": []}})
    assert finalized.status == 200
    assert (await kube.get("/api/v1/namespaces/demo")).status == 404
    kept = await kube.delete("/api/v1/namespaces/default")
    assert (kept.status, kept.body["message"]) == (
        403,
        'namespaces "default" is forbidden: this namespace may not be deleted',
    )
