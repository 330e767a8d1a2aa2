"""What StatefulSets, Jobs, DaemonSets and ReplicaSets decide, on made-up pods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.devcluster.controllers import daemonsets, jobs, pods, statefulsets
from kaito.devcluster.controllers.statefulsets import Create, Delete
from kaito.runtime import Manifest, format_time

NOW = datetime(2024, 11, 16, 12, tzinfo=UTC)


def pod(name: str, phase: str = "Running", *, ready: bool = True, deleting: bool = False, **more: Any) -> Manifest:
    metadata: Manifest = {"name": name, "uid": name, "creationTimestamp": format_time(NOW), "labels": {}, **more}
    if deleting:
        metadata["deletionTimestamp"] = format_time(NOW)
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": format_time(NOW)}]
    return {"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": conditions}}


def stateful_set(replicas: int, **spec: Any) -> Manifest:
    return {"metadata": {"name": "db", "generation": 1}, "spec": {"replicas": replicas, **spec}}


def numbered(*found: Manifest) -> dict[int, Manifest]:
    return {int(item["metadata"]["name"].rpartition("-")[2]): item for item in found}


def member(ordinal: int, revision: str = "new", **more: Any) -> Manifest:
    return pod(f"db-{ordinal}", labels={"controller-revision-hash": revision}, **more)


def decided(body: Manifest, *found: Manifest) -> list[tuple[str, Any]]:
    actions = statefulsets.plan(body, numbered(*found), "old", "new", NOW)
    return [
        ("create", (action.ordinal, action.revision)) if isinstance(action, Create) else ("delete", _name(action))
        for action in actions
    ]


def _name(action: Delete) -> str:
    return str(action.pod["metadata"]["name"])


def test_ordered_sets_take_one_step_at_a_time() -> None:
    assert decided(stateful_set(3)) == [("create", (0, "new"))]
    assert decided(stateful_set(3), member(0, ready=False)) == []
    assert decided(stateful_set(3), member(0)) == [("create", (1, "new"))]
    assert decided(stateful_set(1), member(0), member(1), member(2)) == [("delete", "db-2")]
    assert decided(stateful_set(1), member(0), member(1), member(2, deleting=True)) == []
    assert decided(stateful_set(1), member(0, phase="Failed")) == [("delete", "db-0")]


def test_parallel_sets_take_all_steps_at_once() -> None:
    body = stateful_set(2, podManagementPolicy="Parallel", ordinals={"start": 5})
    assert decided(body) == [("create", (5, "new")), ("create", (6, "new"))]
    assert decided(stateful_set(0, podManagementPolicy="Parallel"), member(0), member(1)) == [
        ("delete", "db-1"),
        ("delete", "db-0"),
    ]


def test_updates_roll_from_the_last_pod_down_to_the_partition() -> None:
    old = [member(number, "old") for number in range(3)]
    assert decided(stateful_set(3), *old) == [("delete", "db-2")]
    assert decided(stateful_set(3), old[0], old[1], member(2, ready=False)) == []
    assert decided(stateful_set(3), old[0], old[1], member(2)) == [("delete", "db-1")]
    held = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
    assert decided(stateful_set(3, updateStrategy=held), old[0], old[1], member(2)) == []
    assert decided(stateful_set(3, updateStrategy=held), old[0]) == [("create", (1, "old"))]
    assert decided(stateful_set(3, updateStrategy={"type": "OnDelete"}), *old) == []
    assert decided(stateful_set(3, updateStrategy={"type": "OnDelete"}), old[0]) == [("create", (1, "new"))]


def job(**spec: Any) -> Manifest:
    return {"metadata": {"name": "j"}, "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, **spec}}


def kinds(plan: jobs.Plan) -> set[str]:
    return {item["type"] for item in plan.status.get("conditions", ()) if item["status"] == "True"}


def test_a_job_keeps_as_many_pods_as_it_needs() -> None:
    body = job(parallelism=2, completions=3)
    assert len(jobs.plan(body, [], NOW).create) == 2
    done = [pod("a", "Succeeded"), pod("b", "Succeeded")]
    assert len(jobs.plan(body, done, NOW).create) == 1
    assert jobs.plan(body, [*done, pod("c")], NOW).create == ()
    assert kinds(jobs.plan(body, [*done, pod("c", "Succeeded")], NOW)) == {"SuccessCriteriaMet", "Complete"}
    shrunk = jobs.plan(job(parallelism=1, completions=3), [pod("a"), pod("b", ready=False)], NOW)
    assert [item["metadata"]["name"] for item in shrunk.delete] == ["b"]


def test_a_work_queue_ends_when_one_succeeded_and_none_runs() -> None:
    body = job(parallelism=2, completions=None)
    assert len(jobs.plan(body, [], NOW).create) == 2
    running = jobs.plan(body, [pod("a", "Succeeded"), pod("b")], NOW)
    assert (running.create, running.delete, kinds(running)) == ((), (), set())
    assert "Complete" in kinds(jobs.plan(body, [pod("a", "Succeeded"), pod("b", "Succeeded")], NOW))


def test_failures_are_retried_later_and_later_and_then_no_more() -> None:
    body = job(backoffLimit=2)
    first = jobs.plan(body, [pod("a", "Failed")], NOW)
    assert (first.create, first.again) == ((), 10.0)
    assert len(jobs.plan(body, [pod("a", "Failed")], NOW + timedelta(seconds=10)).create) == 1
    second = jobs.plan(body, [pod("a", "Failed"), pod("b", "Failed")], NOW)
    assert second.again == 20.0
    over = jobs.plan(body, [pod(name, "Failed") for name in "abc"] + [pod("d")], NOW)
    assert kinds(over) == {"FailureTarget", "Failed"}
    assert [item["metadata"]["name"] for item in over.delete] == ["d"]
    assert over.event == ("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


def test_a_deadline_ends_a_job() -> None:
    body = job(activeDeadlineSeconds=60)
    body["status"] = jobs.plan(body, [], NOW).status
    assert jobs.plan(body, [pod("a")], NOW + timedelta(seconds=20)).again == 40
    assert "Failed" in kinds(jobs.plan(body, [pod("a")], NOW + timedelta(seconds=60)))


def test_indexes_are_given_out_once() -> None:
    body = job(parallelism=3, completions=4, completionMode="Indexed")
    annotated = {"annotations": {jobs.INDEX: "1"}}
    assert jobs.plan(body, [pod("a", "Succeeded", **annotated)], NOW).create == (0, 2, 3)
    assert jobs.plan(body, [pod("a", **annotated)], NOW).create == (0, 2)


@pytest.mark.parametrize(("indexes", "text"), [([0], "0"), ([0, 1, 2, 4], "0-2,4"), ([3, 1], "1,3")])
def test_ranges(indexes: list[int], text: str) -> None:
    assert jobs.ranges(indexes) == text


def test_a_finished_job_expires() -> None:
    body = job(ttlSecondsAfterFinished=30)
    assert jobs.expires_in(body, NOW) is None
    body["status"] = jobs.plan(body, [pod("a", "Succeeded")], NOW).status
    assert jobs.expires_in(body, NOW + timedelta(seconds=10)) == 20
    assert jobs.expires_in(body, NOW + timedelta(seconds=31)) == 0


def test_daemons_move_with_their_nodes() -> None:
    body = {"metadata": {"name": "d"}, "spec": {"template": {"spec": {}}}}
    here = pod("a", labels={"controller-revision-hash": "new"})
    plan = daemonsets.plan(body, {"n", "m"}, [here], "new", NOW)
    assert (plan.create, plan.delete) == (("m",), ())
    assert daemonsets.plan(body, set(), [here], "new", NOW).delete == (here,)
    stale = pod("b", labels={"controller-revision-hash": "old"})
    assert daemonsets.plan(body, {"n"}, [stale], "new", NOW).delete == (stale,)
    leaving = pod("c", deleting=True)
    assert daemonsets.plan(body, {"n"}, [leaving], "new", NOW) == daemonsets.Plan()


def test_a_daemons_pod_is_meant_for_one_node() -> None:
    pinned = {"spec": daemonsets.daemon_spec({"spec": {"containers": []}}, "n")}
    assert daemonsets.node_of(pinned) == "n"
    cordoned = {
        "metadata": {"name": "n"},
        "spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]},
    }
    assert daemonsets.eligible({"spec": {"template": {"spec": {}}}}, [cordoned]) == {"n"}


def test_the_least_useful_pods_are_given_up_first() -> None:
    unbound = pod("unbound", "Pending", ready=False)
    unbound["spec"] = {}
    cheap = pod("cheap", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"})
    young = pod("young")
    young["metadata"]["creationTimestamp"] = format_time(NOW + timedelta(seconds=5))
    found = [pod("steady"), young, cheap, pod("starting", "Pending", ready=False), unbound, pod("unready", ready=False)]
    assert [item["metadata"]["name"] for item in pods.deletion_order(found)] == [
        "unbound",
        "starting",
        "unready",
        "cheap",
        "young",
        "steady",
    ]


def test_availability_takes_the_minimal_time() -> None:
    assert pods.available_in(pod("a"), 10, NOW + timedelta(seconds=4)) == 6
    assert pods.available_in(pod("a"), 10, NOW + timedelta(seconds=40)) == 0
    assert pods.available_in(pod("a", ready=False), 0, NOW) is None
    assert pods.soonest([None, 0.0, 3.0, 2.0]) == 2.0
    assert pods.soonest([0.0, None]) is None
