"""Deployments as a user of the API sees them."""

from __future__ import annotations

from typing import Any

import pytest

from devcluster.living import Living, rolled_out, template, workload
from kaito.runtime import DEPLOYMENTS, EVENTS, PODS, REPLICA_SETS, Manifest


def condition(obj: Manifest, kind: str) -> dict[str, Any]:
    return next((item for item in obj.get("status", {}).get("conditions", ()) if item["type"] == kind), {})


async def test_becomes_available_and_says_so(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web", 2))
    deployment = await living.until(DEPLOYMENTS, "web", rolled_out)
    assert condition(deployment, "Available")["status"] == "True"
    progressing = condition(deployment, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "NewReplicaSetAvailable")
    assert deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    (replica_set,) = await living.sets("web")
    assert replica_set["metadata"]["name"].startswith("web-")
    pods = await living.pods("web")
    assert {pod["metadata"]["ownerReferences"][0]["uid"] for pod in pods} == {replica_set["metadata"]["uid"]}
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
    assert all(pod["metadata"]["labels"]["kaito.sh/simulated"] == "true" for pod in pods)


async def test_tells_its_story_in_events(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    wanted = {
        "deployment-controller": {"ScalingReplicaSet"},
        "replicaset-controller": {"SuccessfulCreate"},
        "default-scheduler": {"Scheduled"},
        "kubelet": {"Pulling", "Pulled", "Created", "Started"},
    }

    async def told() -> bool:
        events = await living.list(EVENTS)
        return all(
            reasons <= {event["reason"] for event in events if event["reportingController"] == who}
            for who, reasons in wanted.items()
        )

    await living.until_true(told)


async def test_scales_up_and_down(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 3}})
    await living.until(DEPLOYMENTS, "web", lambda d: d["status"].get("readyReplicas") == 3)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 0}})
    await living.none_left(PODS, app="web")
    deployment = await living.until(DEPLOYMENTS, "web", rolled_out)
    assert "replicas" not in deployment["status"]
    assert len(await living.sets("web")) == 1


async def test_rolls_out_back_and_keeps_the_history(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web", 3))
    first = await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"template": template("web", "nginx:2")}})
    await living.until(DEPLOYMENTS, "web", rolled_out)
    revisions = {
        item["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: item["spec"]["replicas"]
        for item in await living.sets("web")
    }
    assert revisions == {"1": 0, "2": 3}
    await living.patch(DEPLOYMENTS, "web", {"spec": {"template": first["spec"]["template"]}})
    undone = await living.until(DEPLOYMENTS, "web", rolled_out)
    assert undone["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    sets = {
        item["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: item for item in await living.sets("web")
    }
    assert set(sets) == {"2", "3"}
    assert sets["3"]["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"] == "1"


async def test_forgets_old_revisions(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web", revisionHistoryLimit=1))
    for image in ("nginx:2", "nginx:3", "nginx:4"):
        await living.until(DEPLOYMENTS, "web", rolled_out)
        await living.patch(DEPLOYMENTS, "web", {"spec": {"template": template("web", image)}})

    async def forgotten() -> bool:
        return len(await living.sets("web")) == 2

    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.until_true(forgotten)


async def test_recreate_never_runs_two_templates_at_once(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web", 2, strategy={"type": "Recreate"}))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"template": template("web", "nginx:2")}})
    images: list[set[str]] = []

    async def done() -> bool:
        images.append({pod["spec"]["containers"][0]["image"] for pod in await living.pods("web")})
        return rolled_out(await living.get(DEPLOYMENTS, "web"))

    await living.until_true(done)
    assert {"nginx:1", "nginx:2"} not in images
    assert images[-1] == {"nginx:2"}


async def test_paused_changes_nothing_until_resumed(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"paused": True, "template": template("web", "nginx:2")}})
    paused = await living.until(
        DEPLOYMENTS, "web", lambda d: condition(d, "Progressing")["reason"] == "DeploymentPaused"
    )
    assert paused["status"].get("updatedReplicas", 0) == 0
    assert len(await living.sets("web")) == 1
    await living.patch(DEPLOYMENTS, "web", {"spec": {"paused": None}})
    await living.until(DEPLOYMENTS, "web", lambda d: rolled_out(d) and condition(d, "Progressing")["status"] == "True")
    assert len(await living.sets("web")) == 2


async def test_a_stuck_roll_out_exceeds_its_deadline_and_keeps_serving(living: Living) -> None:
    body = workload("web", 2, progressDeadlineSeconds=1)
    await living.create(DEPLOYMENTS, body)
    await living.until(DEPLOYMENTS, "web", rolled_out)
    broken = template("web", "nginx:2", annotations={"dev.kaito.sh/fail": "image-pull"})
    await living.patch(DEPLOYMENTS, "web", {"spec": {"template": broken}})
    deployment = await living.until(
        DEPLOYMENTS, "web", lambda d: condition(d, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    )
    assert condition(deployment, "Available")["status"] == "True"
    assert deployment["status"]["availableReplicas"] == 2


async def test_replaces_a_deleted_pod(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    (pod,) = await living.pods("web")
    await living.delete(PODS, pod["metadata"]["name"])
    await living.gone(PODS, pod["metadata"]["name"])
    await living.until(DEPLOYMENTS, "web", rolled_out)
    (other,) = await living.pods("web")
    assert other["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_adopts_what_an_orphaning_deletion_left(living: Living) -> None:
    await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    await living.delete(DEPLOYMENTS, "web", "Orphan")
    await living.gone(DEPLOYMENTS, "web")
    (left,) = await living.sets("web")
    assert not left["metadata"].get("ownerReferences")
    again = await living.create(DEPLOYMENTS, workload("web"))
    await living.until(DEPLOYMENTS, "web", rolled_out)
    (adopted,) = await living.sets("web")
    assert adopted["metadata"]["uid"] == left["metadata"]["uid"]
    assert adopted["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"]


async def test_a_relabelled_pod_is_released_and_replaced(living: Living) -> None:
    await living.create(REPLICA_SETS, workload("web"))
    await living.until(REPLICA_SETS, "web", lambda r: r.get("status", {}).get("readyReplicas") == 1)
    (pod,) = await living.pods("web")
    name = pod["metadata"]["name"]
    await living.patch(PODS, name, {"metadata": {"labels": {"app": "debug"}}})
    await living.until(PODS, name, lambda p: not p["metadata"].get("ownerReferences"))

    async def replaced() -> bool:
        return len(await living.pods("web")) == 1

    await living.until_true(replaced)


@pytest.mark.parametrize("fate", ["image-pull", "never-ready"])
async def test_a_pod_that_fails_is_not_available(living: Living, fate: str) -> None:
    await living.create(DEPLOYMENTS, workload("web", template=template("web", annotations={"dev.kaito.sh/fail": fate})))

    async def failed() -> bool:
        pods = await living.pods("web")
        states = [item["state"] for pod in pods for item in pod["status"].get("containerStatuses", ())]
        if fate == "never-ready":
            return any("running" in state for state in states)
        return any(state.get("waiting", {}).get("reason") == "ImagePullBackOff" for state in states)

    await living.until_true(failed)
    deployment = await living.until(
        DEPLOYMENTS, "web", lambda d: condition(d, "Available").get("reason") == "MinimumReplicasUnavailable"
    )
    assert deployment["status"]["unavailableReplicas"] == 1
