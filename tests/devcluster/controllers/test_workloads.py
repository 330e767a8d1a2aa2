"""StatefulSets, Jobs, DaemonSets, Services and claims as users of the API see them."""

from __future__ import annotations

from collections.abc import Callable

from devcluster.living import Living, is_ready, template, workload
from kaito.devcluster.controllers.resources import DAEMON_SETS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kaito.runtime import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    JOBS,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Manifest,
    NotFound,
)


def settled(stateful_set: Manifest) -> bool:
    """What ``kubectl rollout status`` waits for."""
    status, wanted = stateful_set.get("status", {}), stateful_set["spec"]["replicas"]
    return (
        status.get("observedGeneration", 0) >= stateful_set["metadata"]["generation"]
        and status.get("readyReplicas", 0) == wanted
        and status.get("updatedReplicas", 0) == wanted
        and status.get("currentRevision") == status.get("updateRevision")
    )


def job(name: str, restart: str = "Never", fail: str = "", **spec: object) -> Manifest:
    annotations = {"dev.kaito.sh/fail": fail} if fail else None
    return {
        "metadata": {"name": name},
        "spec": {"template": template(name, restartPolicy=restart, annotations=annotations), **spec},
    }


def has(kind: str, reason: str = "") -> Callable[[Manifest], bool]:
    def check(obj: Manifest) -> bool:
        return any(
            item["type"] == kind and item["status"] == "True" and reason in ("", item.get("reason"))
            for item in obj.get("status", {}).get("conditions", ())
        )

    return check


async def test_a_stateful_set_names_numbers_and_rolls_its_pods(living: Living) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    body = workload("db", 2, serviceName="db", volumeClaimTemplates=[claim])
    await living.create(STATEFUL_SETS, body)
    first = await living.until(STATEFUL_SETS, "db", settled)
    pods = {pod["metadata"]["name"]: pod for pod in await living.pods("db")}
    assert set(pods) == {"db-0", "db-1"}
    labels = pods["db-1"]["metadata"]["labels"]
    assert labels["statefulset.kubernetes.io/pod-name"] == "db-1"
    assert labels["apps.kubernetes.io/pod-index"] == "1"
    assert labels["controller-revision-hash"] == first["status"]["updateRevision"]
    assert (pods["db-1"]["spec"]["hostname"], pods["db-1"]["spec"]["subdomain"]) == ("db-1", "db")
    assert pods["db-1"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "data-db-1"
    bound = await living.until(PERSISTENT_VOLUME_CLAIMS, "data-db-1", lambda c: c["status"]["phase"] == "Bound")
    volume = await living.client.get(PERSISTENT_VOLUMES, bound["spec"]["volumeName"])
    assert volume["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]

    await living.patch(STATEFUL_SETS, "db", {"spec": {"template": template("db", "nginx:2")}})
    second = await living.until(STATEFUL_SETS, "db", settled)
    assert second["status"]["currentRevision"] != first["status"]["currentRevision"]
    assert {pod["spec"]["containers"][0]["image"] for pod in await living.pods("db")} == {"nginx:2"}
    assert len(await living.list(CONTROLLER_REVISIONS)) == 2

    await living.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 1}})
    await living.gone(PODS, "db-1")
    await living.until(STATEFUL_SETS, "db", settled)
    await living.delete(STATEFUL_SETS, "db")
    await living.none_left(PODS, app="db")
    assert (await living.get(PERSISTENT_VOLUME_CLAIMS, "data-db-1"))["status"]["phase"] == "Bound"
    await living.delete(PERSISTENT_VOLUME_CLAIMS, "data-db-1")
    await living.gone(PERSISTENT_VOLUMES, volume["metadata"]["name"])


async def test_ordered_pods_wait_for_the_one_before(living: Living) -> None:
    stuck = template("db", annotations={"dev.kaito.sh/fail": "never-ready"})
    await living.create(STATEFUL_SETS, workload("db", 2, serviceName="db", template=stuck))
    await living.until(PODS, "db-0", lambda p: p["status"].get("phase") == "Running")
    await living.create(STATEFUL_SETS, workload("all", 2, podManagementPolicy="Parallel", template={**template("all")}))
    await living.until(STATEFUL_SETS, "all", settled)
    assert [pod["metadata"]["name"] for pod in await living.pods("db")] == ["db-0"]


async def test_a_job_completes(living: Living) -> None:
    await living.create(JOBS, job("once", completions=3, parallelism=2))
    done = await living.until(JOBS, "once", has("Complete", "CompletionsReached"))
    assert done["status"]["succeeded"] == 3
    assert "active" not in done["status"]
    assert done["status"]["startTime"]
    assert done["status"]["completionTime"]
    assert has("SuccessCriteriaMet")(done)
    pods = await living.list(PODS, **{"job-name": "once"})
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}
    assert {pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods} == {0}


async def test_an_indexed_job_gives_every_pod_its_number(living: Living) -> None:
    await living.create(JOBS, job("shards", completions=3, parallelism=3, completionMode="Indexed"))
    done = await living.until(JOBS, "shards", has("Complete"))
    assert done["status"]["completedIndexes"] == "0-2"
    pods = await living.list(PODS, **{"job-name": "shards"})
    assert sorted(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in pods) == [
        "0",
        "1",
        "2",
    ]


async def test_a_job_that_fails_too_often_fails(living: Living) -> None:
    await living.create(JOBS, job("bad", fail="oom", backoffLimit=0))
    failed = await living.until(JOBS, "bad", has("Failed", "BackoffLimitExceeded"))
    assert failed["status"]["failed"] == 1
    (pod,) = await living.list(PODS, **{"job-name": "bad"})
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"


async def test_a_finished_job_goes_after_its_time_to_live(living: Living) -> None:
    await living.create(JOBS, job("brief", ttlSecondsAfterFinished=0))
    await living.gone(JOBS, "brief")
    await living.none_left(PODS)


async def test_a_suspended_job_runs_when_resumed(living: Living) -> None:
    await living.create(JOBS, job("later", suspend=True))
    await living.until(JOBS, "later", has("Suspended"))
    assert await living.list(PODS) == []
    await living.patch(JOBS, "later", {"spec": {"suspend": False}})
    await living.until(JOBS, "later", has("Complete"))


async def test_a_daemon_runs_on_every_node_and_rolls(living: Living) -> None:
    spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent")}
    await living.create(DAEMON_SETS, {"metadata": {"name": "agent"}, "spec": spec})

    def ready(daemon_set: Manifest) -> bool:
        status = daemon_set.get("status", {})
        wanted = status.get("desiredNumberScheduled", 0)
        return wanted > 0 and status.get("numberAvailable") == status.get("updatedNumberScheduled") == wanted

    held = await living.until(DAEMON_SETS, "agent", ready)
    assert len(await living.pods("agent")) == held["status"]["desiredNumberScheduled"]
    await living.patch(DAEMON_SETS, "agent", {"spec": {"template": template("agent", "nginx:2")}})
    await living.until(
        DAEMON_SETS,
        "agent",
        lambda d: ready(d) and d["status"]["observedGeneration"] == d["metadata"]["generation"],
    )
    assert {pod["spec"]["containers"][0]["image"] for pod in await living.pods("agent")} == {"nginx:2"}


async def test_endpoints_follow_the_pods(living: Living) -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 5000}]},
    }
    await living.create(SERVICES, service)
    await living.create(DEPLOYMENTS, workload("web", 2))

    def addresses(endpoints: Manifest) -> list[str]:
        return [item["ip"] for subset in endpoints.get("subsets", ()) for item in subset.get("addresses", ())]

    endpoints = await living.until(ENDPOINTS, "web", lambda e: len(addresses(e)) == 2)
    pods = {pod["status"]["podIP"] for pod in await living.pods("web")}
    assert set(addresses(endpoints)) == pods
    assert endpoints["subsets"][0]["ports"] == [{"port": 5000, "protocol": "TCP"}]

    async def sliced() -> bool:
        slices = await living.list(ENDPOINT_SLICES, **{"kubernetes.io/service-name": "web"})
        found = {item["addresses"][0] for each in slices for item in each["endpoints"] if item["conditions"]["ready"]}
        return found == pods and all(each["ports"][0]["port"] == 5000 for each in slices)

    await living.until_true(sliced)
    await living.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 0}})
    await living.until(ENDPOINTS, "web", lambda e: not e.get("subsets"))
    await living.delete(SERVICES, "web")
    await living.gone(ENDPOINTS, "web")
    await living.none_left(ENDPOINT_SLICES)


async def test_pods_that_are_not_ready_are_published_only_where_asked(living: Living) -> None:
    stuck = template("web", annotations={"dev.kaito.sh/fail": "never-ready"})
    ports = [{"port": 80}]
    await living.create(
        SERVICES, {"metadata": {"name": "strict"}, "spec": {"selector": {"app": "web"}, "ports": ports}}
    )
    eager = {"selector": {"app": "web"}, "clusterIP": "None", "publishNotReadyAddresses": True}
    await living.create(SERVICES, {"metadata": {"name": "eager"}, "spec": eager})
    await living.create(STATEFUL_SETS, workload("web", template=stuck, serviceName="eager"))

    async def published() -> bool:
        try:
            strict, found = [(await living.get(ENDPOINTS, name)).get("subsets") for name in ("strict", "eager")]
        except NotFound:
            return False
        if not strict or not found:
            return False
        return "addresses" not in strict[0] and found[0]["addresses"][0]["hostname"] == "web-0"

    await living.until_true(published)


async def test_a_claim_and_its_volume_stay_until_the_last_pod_has_gone(living: Living) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await living.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "data"}, "spec": claim})
    mounted = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    pod = template("user", volumes=[mounted])
    await living.create(PODS, {**pod, "metadata": {"name": "user", "labels": {"app": "user"}}})
    await living.until(PODS, "user", is_ready)
    bound = await living.until(PERSISTENT_VOLUME_CLAIMS, "data", lambda c: c["status"]["phase"] == "Bound")
    volume = bound["spec"]["volumeName"]
    await living.client.delete(PERSISTENT_VOLUMES, volume)
    await living.delete(PERSISTENT_VOLUME_CLAIMS, "data")
    await living.create(PODS, {**template("later"), "metadata": {"name": "later"}})
    await living.until(PODS, "later", is_ready)
    for held in (
        await living.get(PERSISTENT_VOLUME_CLAIMS, "data"),
        await living.client.get(PERSISTENT_VOLUMES, volume),
    ):
        assert held["metadata"]["deletionTimestamp"]
        assert held["metadata"]["finalizers"]
    await living.delete(PODS, "user")
    await living.gone(PERSISTENT_VOLUME_CLAIMS, "data")
    await living.gone(PERSISTENT_VOLUMES, volume)
