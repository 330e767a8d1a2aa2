"""The arithmetic of roll-outs, on made-up ReplicaSets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.devcluster.controllers import rollout
from kaito.devcluster.controllers.deployment_status import deadline_in, deployment_status
from kaito.devcluster.controllers.templates import same_template, template_hash
from kaito.runtime import Manifest, format_time

NOW = datetime(2024, 11, 16, 12, tzinfo=UTC)


def pod_template(image: str) -> Manifest:
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}


def deployment(
    replicas: int, surge: Any = "25%", unavailable: Any = "25%", image: str = "new", **spec: Any
) -> Manifest:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "generation": 1},
        "spec": {
            "replicas": replicas,
            "strategy": strategy,
            "selector": {"matchLabels": {"app": "web"}},
            "template": pod_template(image),
            "progressDeadlineSeconds": 600,
            **spec,
        },
    }


def replica_set(
    name: str, size: int, available: int | None = None, annotations: dict[str, str] | None = None
) -> Manifest:
    ready = size if available is None else available
    return {
        "metadata": {"name": name, "creationTimestamp": name, "annotations": annotations or {}, "uid": name},
        "spec": {"replicas": size, "template": pod_template(name)},
        "status": {"replicas": size, "availableReplicas": ready, "readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (3, "25%", "25%", (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (10, "0%", "5%", (0, 1)),
        (2, 5, 5, (5, 2)),
    ],
)
def test_bounds_round_surge_up_and_unavailable_down(replicas: int, surge: Any, unavailable: Any, expected: Any) -> None:
    assert rollout.bounds(deployment(replicas, surge, unavailable)) == expected


def test_the_template_tells_the_new_set_whatever_its_hash_label() -> None:
    new, old = replica_set("new", 1), replica_set("old", 1)
    new["spec"]["template"]["metadata"]["labels"]["pod-template-hash"] = "x"
    found, others = rollout.split(deployment(1), [old, new])
    assert found is new
    assert others == [old]
    assert rollout.split(deployment(1, image="third"), [old, new])[0] is None


def test_hashes_are_stable_and_differ() -> None:
    one = pod_template("a")
    assert template_hash(one) == template_hash(pod_template("a")) == "l4ttqmqtkt"
    assert template_hash(one) != template_hash(pod_template("b"))
    assert template_hash(one) != template_hash(one, 1)
    assert same_template(one, {**one, "metadata": {"labels": {"app": "web", "pod-template-hash": "x"}}})


def test_a_new_set_starts_within_the_surge() -> None:
    old = [replica_set("old", 4, annotations={rollout.REVISION: "7"})]
    made = rollout.new_replica_set(deployment(4), old, {"uid": "u"})
    assert made["spec"]["replicas"] == 1
    assert made["metadata"]["annotations"][rollout.REVISION] == "8"
    digest = made["metadata"]["labels"]["pod-template-hash"]
    assert made["metadata"]["name"] == f"web-{digest}"
    assert made["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert rollout.new_replica_set(deployment(4), [], {"uid": "u"})["spec"]["replicas"] == 4


def test_old_pods_that_do_not_serve_go_first() -> None:
    broken, serving = replica_set("a", 2, 0), replica_set("b", 4, 4)
    scales = rollout.shrink(deployment(4, 1, 0), replica_set("new", 1, 0), [broken, serving])
    assert [(item.replica_set["metadata"]["name"], item.replicas) for item in scales] == [("a", 0)]


def test_recreate_waits_for_the_last_old_pod() -> None:
    body = deployment(2, strategy={"type": "Recreate"})
    body["spec"]["strategy"] = {"type": "Recreate"}
    new, old = replica_set("new", 0), replica_set("old", 2)
    assert [scale.replicas for scale in rollout.roll(body, new, [old], old_pods=True)] == [0]
    assert rollout.roll(body, new, [replica_set("old", 0)], old_pods=True) == []
    assert [scale.replicas for scale in rollout.roll(body, new, [replica_set("old", 0)], old_pods=False)] == [2]


def test_a_changed_size_is_spread_in_proportion() -> None:
    sizes = {rollout.DESIRED_REPLICAS: "10", rollout.MAX_REPLICAS: "13"}
    new, old = replica_set("new", 5, annotations=sizes), replica_set("old", 8, annotations=sizes)
    body = deployment(15, 3, 2)
    assert rollout.is_resized(body, [new, old])
    spread = {scale.replica_set["metadata"]["name"]: scale.replicas for scale in rollout.resize(body, new, [old])}
    assert spread == {"new": 7, "old": 11}


@given(
    replicas=st.integers(1, 12),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    old_ready=st.integers(0, 12),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_roll_out_keeps_its_bounds_and_ends(
    replicas: int, surge: int, unavailable: int, old_ready: int, data: st.DataObject
) -> None:
    """Pods become available in any order; the total never exceeds the surge, what serves never falls below the bound."""
    body = deployment(replicas, surge, unavailable)
    extra, missing = rollout.bounds(body)
    old, new = replica_set("old", replicas, min(old_ready, replicas)), replica_set("new", 0, 0)
    for _ in range(200):
        for scale in rollout.roll(body, new, [old], old_pods=False):
            held = scale.replica_set
            ready = rollout.available(held)
            # Pods that do not serve are given up first, as a ReplicaSet does.
            held["spec"]["replicas"] = scale.replicas
            held["status"]["availableReplicas"] = min(ready, scale.replicas)
        total = rollout.replicas(new) + rollout.replicas(old)
        assert total <= replicas + extra
        serving = rollout.available(new) + rollout.available(old)
        assert serving >= min(replicas - missing, min(old_ready, replicas))
        if rollout.replicas(new) == replicas and rollout.replicas(old) == 0:
            break
        room = rollout.replicas(new) - rollout.available(new)
        if room:
            new["status"]["availableReplicas"] += data.draw(st.integers(1, room))
    else:
        pytest.fail("the roll-out did not end")


def status_of(body: Manifest, new: Manifest | None, *old: Manifest, created: str = "", now: datetime = NOW) -> Manifest:
    status = deployment_status(body, new, list(old), created, now)
    body["status"] = status
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


def test_conditions_tell_how_far_it_is() -> None:
    body = deployment(2)
    new = replica_set("new", 2, 0)
    assert status_of(body, new, created="new") == {
        "Available": ("False", "MinimumReplicasUnavailable"),
        "Progressing": ("True", "NewReplicaSetCreated"),
    }
    new["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    assert status_of(body, new)["Progressing"] == ("True", "ReplicaSetUpdated")
    new["status"] |= {"readyReplicas": 2, "availableReplicas": 2}
    assert status_of(body, new) == {
        "Available": ("True", "MinimumReplicasAvailable"),
        "Progressing": ("True", "NewReplicaSetAvailable"),
    }
    new["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    assert status_of(body, new)["Progressing"] == ("True", "NewReplicaSetAvailable")


def test_the_deadline_counts_from_the_last_progress() -> None:
    body = deployment(2)
    new = replica_set("new", 2, 0)
    status_of(body, new, created="new")
    progressing = next(item for item in body["status"]["conditions"] if item["type"] == "Progressing")
    assert progressing["lastUpdateTime"] == format_time(NOW)
    assert deadline_in(body, progressing, NOW + timedelta(seconds=100)) == 500
    late = NOW + timedelta(seconds=600)
    assert status_of(body, new, now=late)["Progressing"] == ("False", "ProgressDeadlineExceeded")
    body["spec"]["progressDeadlineSeconds"] = 2**31 - 1
    assert "Progressing" not in status_of(body, new, now=late)


def test_a_set_that_comes_back_takes_the_highest_revision() -> None:
    new = replica_set("new", 0, annotations={rollout.REVISION: "1"})
    old = replica_set("old", 2, annotations={rollout.REVISION: "2"})
    body = deployment(2)
    body["metadata"]["annotations"] = {"kubernetes.io/change-cause": "back", rollout.REVISION: "2"}
    assert rollout.missing_annotations(body, new, [old]) == {
        "kubernetes.io/change-cause": "back",
        rollout.REVISION: "3",
        rollout.REVISION_HISTORY: "1",
    }
    assert (
        rollout.missing_annotations(deployment(2), replica_set("new", 2, annotations={rollout.REVISION: "3"}), [old])
        == {}
    )
