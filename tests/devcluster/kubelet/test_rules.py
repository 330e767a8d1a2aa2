"""How pods live, step by step, without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.devcluster.kubelet.rules import Scene, next_rule
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import Manifest

NOW = datetime(2024, 11, 16, 12, tzinfo=UTC)
TIMING = Timing()


def pod(fail: str = "", ready_after: str = "", **spec: Any) -> Manifest:
    annotations = {"dev.kaito.sh/fail": fail, "dev.kaito.sh/ready-after": ready_after}
    return {
        "metadata": {
            "name": "p",
            "namespace": "default",
            "uid": "u",
            "annotations": {name: value for name, value in annotations.items() if value},
        },
        "spec": {
            "nodeName": "n",
            "restartPolicy": "Always",
            "containers": [{"name": "main", "image": "img:1"}],
            **spec,
        },
        "status": {
            "phase": "Pending",
            "qosClass": "BestEffort",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
        },
    }


class Life:
    """Applies rules to a pod as the kubelet would, with a clock of its own."""

    def __init__(self, pod: Manifest) -> None:
        self.pod = pod
        self.seconds = 0.0
        self.notes: list[str] = []
        self.steps: list[str] = []
        self.removed = False

    def step(self) -> str | None:
        rule = next_rule(self.pod)
        if rule is None or self.removed:
            return None
        self.seconds += rule.after(self.pod, TIMING)
        now = NOW + timedelta(seconds=self.seconds)
        change = rule.then(Scene(self.pod, now, "10.224.0.4", "10.244.0.9", TIMING))
        if change.status is not None:
            self.pod = {**self.pod, "status": change.status}
        self.removed = self.removed or change.remove
        self.notes += [note.reason for note in change.notes]
        self.steps.append(rule.name)
        return rule.name

    def run(self, steps: int = 20) -> Life:
        for _ in range(steps):
            if self.step() is None:
                return self
        return self

    @property
    def status(self) -> Manifest:
        status: Manifest = self.pod["status"]
        return status

    def condition(self, kind: str) -> Manifest:
        return next(item for item in self.status["conditions"] if item["type"] == kind)

    def state(self, index: int = 0) -> Manifest:
        state: Manifest = self.status["containerStatuses"][index]["state"]
        return state


def test_a_plain_pod_is_ready_in_less_than_two_seconds() -> None:
    life = Life(pod()).run()
    assert life.steps == ["accept", "start", "become ready"]
    assert life.seconds < 2
    assert life.notes == ["Pulling", "Pulled", "Created", "Started"]
    status = life.status
    assert status["phase"] == "Running"
    assert status["qosClass"] == "BestEffort"
    assert (status["podIP"], status["podIPs"], status["hostIP"]) == ("10.244.0.9", [{"ip": "10.244.0.9"}], "10.224.0.4")
    assert status["startTime"] == "2024-11-16T12:00:00Z"
    (container,) = status["containerStatuses"]
    assert (container["ready"], container["started"], container["restartCount"]) == (True, True, 0)
    assert container["imageID"].startswith("simulated://")
    held = {item["type"]: item["status"] for item in status["conditions"]}
    assert held == dict.fromkeys(
        ("PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"), "True"
    )


def test_it_says_which_containers_are_not_ready() -> None:
    life = Life(pod())
    life.step()
    assert life.state() == {"waiting": {"reason": "ContainerCreating"}}
    assert life.condition("Ready")["reason"] == "ContainersNotReady"
    assert life.condition("Ready")["message"] == "containers with unready status: [main]"
    assert "podIP" not in life.status


def test_init_containers_run_one_after_the_other_and_sidecars_stay() -> None:
    inits = [
        {"name": "proxy", "image": "p", "restartPolicy": "Always"},
        {"name": "one", "image": "i"},
        {"name": "two", "image": "i"},
    ]
    life = Life(pod(initContainers=inits))
    seen = []
    while life.step():
        seen.append((life.status["phase"], [next(iter(s["state"])) for s in life.status["initContainerStatuses"]]))
    assert seen[0] == ("Pending", ["waiting", "waiting", "waiting"])
    assert seen[1] == ("Pending", ["running", "waiting", "waiting"])
    assert ("Pending", ["running", "terminated", "running"]) in seen
    assert seen[-1] == ("Running", ["running", "terminated", "terminated"])
    assert life.condition("Initialized")["status"] == "True"
    assert life.condition("Ready")["status"] == "True"


def test_pods_of_jobs_complete() -> None:
    life = Life(pod(restartPolicy="Never")).run()
    assert life.steps[-1] == "complete"
    assert life.status["phase"] == "Succeeded"
    assert life.state()["terminated"]["exitCode"] == 0
    assert life.condition("Ready")["reason"] == "PodCompleted"


@pytest.mark.parametrize(("fate", "code", "reason"), [("crash-loop", 1, "Error"), ("oom", 137, "OOMKilled")])
def test_crashing_pods(fate: str, code: int, reason: str) -> None:
    life = Life(pod(fail=fate, restartPolicy="Never")).run()
    assert life.status["phase"] == "Failed"
    assert (life.state()["terminated"]["exitCode"], life.state()["terminated"]["reason"]) == (code, reason)

    life = Life(pod(fail=fate))
    life.run(3)
    assert life.state()["waiting"]["reason"] == "CrashLoopBackOff"
    assert life.status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == code
    assert life.status["phase"] == "Running"
    first = life.seconds
    life.run(2)
    assert life.status["containerStatuses"][0]["restartCount"] == 1
    second = life.seconds
    life.run(2)
    assert life.status["containerStatuses"][0]["restartCount"] == 2
    assert life.seconds - second > second - first
    del life.pod["metadata"]["annotations"]["dev.kaito.sh/fail"]
    life.run()
    assert life.condition("Ready")["status"] == "True"


@pytest.mark.parametrize("inits", [[], [{"name": "first", "image": "i"}]])
def test_an_image_that_cannot_be_pulled(inits: list[Manifest]) -> None:
    life = Life(pod(fail="image-pull", initContainers=inits)).run()
    assert life.steps == ["accept", "fail to pull", "back off from pulling"]
    field = "initContainerStatuses" if inits else "containerStatuses"
    assert life.status[field][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"
    assert life.status["phase"] == "Pending"
    assert life.notes.count("BackOff") == 1
    del life.pod["metadata"]["annotations"]["dev.kaito.sh/fail"]
    assert Life(life.pod).run().condition("Ready")["status"] == "True"


def test_a_pod_that_never_becomes_ready_runs_on() -> None:
    for policy in ("Always", "Never"):
        life = Life(pod(fail="never-ready", restartPolicy=policy)).run()
        assert life.status["phase"] == "Running"
        assert life.condition("Ready")["status"] == "False"


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1.5m", 90), ("200ms", 0.2), ("soon", TIMING.ready)])
def test_readiness_takes_as_long_as_asked(text: str, seconds: float) -> None:
    life = Life(pod(ready_after=text))
    life.run(2)
    before = life.seconds
    life.run()
    assert life.seconds - before == pytest.approx(seconds)


def test_readiness_gates_are_respected() -> None:
    life = Life(pod(readinessGates=[{"conditionType": "example.com/open"}])).run()
    assert life.condition("ContainersReady")["status"] == "True"
    assert life.condition("Ready")["reason"] == "ReadinessGatesNotReady"
    life.status["conditions"].append({"type": "example.com/open", "status": "True"})
    life.run()
    assert life.condition("Ready")["status"] == "True"


def test_a_deleted_pod_stops_and_goes() -> None:
    life = Life(pod()).run()
    life.pod["metadata"] |= {"deletionTimestamp": "2024-11-16T12:00:30Z", "deletionGracePeriodSeconds": 30}
    before = life.seconds
    life.run(2)
    assert life.removed
    assert life.steps[-2:] == ["stop", "remove"]
    assert life.notes[-1] == "Killing"
    assert life.seconds - before <= 1
    assert life.status["phase"] == "Running"
    assert life.condition("Ready")["status"] == "False"


def test_a_deleted_pod_that_never_ran_goes_at_once_and_is_left_alone_where_finalizers_hold_it() -> None:
    life = Life(pod())
    life.pod["metadata"] |= {"deletionTimestamp": "2024-11-16T12:00:30Z", "deletionGracePeriodSeconds": 30}
    assert life.step() == "remove"
    held = pod()
    held["metadata"] |= {"deletionTimestamp": "2024-11-16T12:00:30Z", "deletionGracePeriodSeconds": 0}
    assert next_rule(held) is None


def test_a_deleted_pod_is_not_restarted_and_does_not_count_as_finished() -> None:
    life = Life(pod(fail="crash-loop"))
    life.run(3)
    life.pod["metadata"] |= {"deletionTimestamp": "2024-11-16T12:00:30Z", "deletionGracePeriodSeconds": 0}
    assert next_rule(life.pod) is None

    life = Life(pod(restartPolicy="Never"))
    life.run(3)
    life.pod["metadata"] |= {"deletionTimestamp": "2024-11-16T12:00:30Z", "deletionGracePeriodSeconds": 30}
    assert life.step() == "stop"
    assert life.status["phase"] == "Running"


def test_speed_must_be_positive() -> None:
    assert Timing().faster(2).pull == Timing().pull / 2
    with pytest.raises(ValueError, match="more than 0"):
        Timing().faster(0)
