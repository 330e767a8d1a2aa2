from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from prometheus_client import CollectorRegistry

from kaito.api.resources import WORKSPACES
from kaito.api.workspace import Workspace
from kaito.controllers import workspace as controller
from kaito.controllers.pipeline import Fail, Finding, Outcome, Proceed, Wait, run, status_patch
from kaito.controllers.workspace import watches
from kaito.controllers.workspace.orders import MACHINE_SOURCE
from kaito.controllers.workspace.pods import worst_problem
from kaito.controllers.workspace.settings import Settings, images_of
from kaito.controllers.workspace.status import held_up, next_status, transitions, with_summary
from kaito.runtime import (
    NODES,
    PODS,
    ConfigError,
    Controller,
    Event,
    EventType,
    Invalid,
    Key,
    Lister,
    Resource,
    Stored,
    SystemClock,
)
from kaito.runtime.cache.store import Store

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)


def node(name: str = "n", *, ready: str = "True", size: str = "Standard_NC6s_v3", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "labels": {"apps": "phi-3", "node.kubernetes.io/instance-type": size}
            | {key.replace("__", "/"): value for key, value in labels.items()},
        },
        "status": {"conditions": [{"type": "Ready", "status": ready}], "allocatable": {"nvidia.com/gpu": "1"}},
    }


@pytest.fixture
def workspace(phi3: dict[str, Any]) -> Workspace:
    phi3["metadata"] |= {"namespace": "default", "uid": "u", "generation": 4}
    return Workspace.model_validate(phi3)


def with_resource(workspace: Workspace, **update: Any) -> Workspace:
    return workspace.model_copy(update={"resource": workspace.resource.model_copy(update=update)})


# Pods


def pod(name: str = "p", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def waiting(reason: str, message: str = "m") -> list[dict[str, Any]]:
    return [{"name": "c", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}]


PULL = "check the image's name and the pull secrets"
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}


@pytest.mark.parametrize(
    ("found", "text", "failing"),
    [
        (pod(conditions=[UNSCHEDULABLE]), "Unschedulable: pod p: 0/3 nodes", False),
        (pod(containerStatuses=waiting("ErrImagePull")), f"ErrImagePull: container c of pod p: m; {PULL}", True),
        (
            pod(initContainerStatuses=waiting("InvalidImageName")),
            f"InvalidImageName: container c of pod p: m; {PULL}",
            True,
        ),
        (
            pod(containerStatuses=waiting("CrashLoopBackOff", "")),
            "CrashLoopBackOff: container c of pod p: its log says why (kubectl logs --previous)",
            True,
        ),
        (
            pod(phase="Failed", reason="Evicted", message="low on disk"),
            "Evicted: pod p: low on disk; the node's disk is too small for the image or the model",
            True,
        ),
        (
            pod(containerStatuses=[{"name": "c", "state": {"terminated": {"reason": "Error", "exitCode": 3}}}]),
            "Error: container c of pod p: exit code 3",
            False,
        ),
    ],
)
def test_problems_of_pods(found: dict[str, Any], text: str, failing: bool) -> None:
    problem = worst_problem([found])
    assert problem is not None
    assert (str(problem), problem.failing) == (text, failing)


def test_memory_is_named_behind_a_crash_loop() -> None:
    status = waiting("CrashLoopBackOff")[0] | {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    problem = worst_problem([pod(containerStatuses=[status])])
    assert problem is not None
    assert problem.reason == "ContainerOOMKilled"
    assert "larger instance type" in problem.message


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (pod(containerStatuses=waiting("ErrImageNeverPull")), "ImagePullError"),
        (pod(containerStatuses=waiting("CreateContainerConfigError")), "ContainerStartError"),
        (pod(containerStatuses=waiting("CrashLoopBackOff")), "ContainerCrashLoopBackOff"),
        (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."), "NodeMemoryPressure"),
        (pod(phase="Failed", reason="Evicted", message="exceeded ephemeral-storage"), "NodeDiskPressure"),
        (pod(phase="Failed", reason="Evicted", message="by somebody"), "PodEvicted"),
        (pod(conditions=[UNSCHEDULABLE]), "Unschedulable"),
    ],
)
def test_problems_have_the_reasons_of_conditions(found: dict[str, Any], reason: str) -> None:
    problem = worst_problem([found])
    assert problem is not None
    assert problem.reason == reason


def test_the_failing_pod_is_told_of_first() -> None:
    pods = [pod("a", conditions=[UNSCHEDULABLE]), pod("b", containerStatuses=waiting("InvalidImageName"))]
    problem = worst_problem(pods)
    assert problem is not None
    assert problem.reason == "ImagePullError"


def test_quiet_pods_have_no_problem() -> None:
    going = pod("c", containerStatuses=waiting("CrashLoopBackOff"))
    going["metadata"]["deletionTimestamp"] = "2024-11-16T12:00:00Z"
    assert worst_problem([pod("a", containerStatuses=waiting("ContainerCreating")), pod("b"), going]) is None


# Pipeline


class Says:
    def __init__(self, condition: str, outcome: Outcome | Exception) -> None:
        self.condition, self.pending, self.failed = condition, f"{condition}Pending", f"{condition}Failed"
        self._outcome = outcome

    condition: ClassVar[str]
    pending: ClassVar[str]
    failed: ClassVar[str]

    async def reconcile(self, ctx: Any) -> Outcome:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


async def findings(*outcomes: Outcome | Exception) -> dict[str, tuple[str, str, str]]:
    report = await run([Says(name, outcome) for name, outcome in zip("ABC", outcomes, strict=False)], None, held_up)
    return {found.type: (found.status, found.reason, found.message) for found in with_summary(report)}


async def test_all_proceed() -> None:
    assert await findings(Proceed("r", "m"), Proceed("s")) == {
        "A": ("True", "r", "m"),
        "B": ("True", "s", ""),
        "WorkspaceSucceeded": ("True", "workspaceSucceeded", "workspace succeeds"),
    }


async def test_a_wait_holds_up_the_rest() -> None:
    assert await findings(Proceed(), Wait("w", "for it", status="Unknown"), Proceed()) == {
        "A": ("True", "", ""),
        "B": ("Unknown", "w", "for it"),
        "C": ("False", "CPending", "for it"),
        "WorkspaceSucceeded": ("False", "workspacePending", "for it"),
    }


async def test_a_failure_fails_the_rest() -> None:
    assert await findings(Fail("f", "broken"), Proceed()) == {
        "A": ("False", "f", "broken"),
        "B": ("False", "BFailed", "broken"),
        "WorkspaceSucceeded": ("False", "workspaceFailed", "broken"),
    }


async def test_a_refusal_is_a_failure_that_is_tried_again() -> None:
    refusal = Invalid("no such field")
    report = await run([Says("A", refusal)], None, held_up)
    assert report.error is refusal
    assert report.findings[0] == Finding("A", "False", "AFailed", "no such field")


# Status


def test_status_is_patched_where_it_differs(workspace: Workspace) -> None:
    found = [Finding("ResourceReady", "True", "r", "m")]
    status = next_status(workspace, found, ("n1", "n2"), NOON)
    assert status_patch(workspace, status) == {
        "metadata": {"uid": "u"},
        "status": {
            "workerNodes": ["n1", "n2"],
            "conditions": [
                {
                    "type": "ResourceReady",
                    "status": "True",
                    "observedGeneration": 4,
                    "lastTransitionTime": "2024-11-16T12:00:00Z",
                    "reason": "r",
                    "message": "m",
                }
            ],
        },
    }
    settled = workspace.model_copy(update={"status": status})
    assert status_patch(settled, next_status(settled, found, None, NOON)) is None


def test_only_turning_points_are_told(workspace: Workspace) -> None:
    def told(old: list[Finding], new: list[Finding]) -> list[tuple[str, str]]:
        before = next_status(workspace, old, None, NOON)
        after = next_status(workspace.model_copy(update={"status": before}), new, None, NOON)
        return [(event.type, event.reason) for event in transitions(before, after)]

    pending = Finding("WorkspaceSucceeded", "False", "workspacePending", "")
    succeeded = Finding("WorkspaceSucceeded", "True", "workspaceSucceeded", "")
    failed = Finding("WorkspaceSucceeded", "False", "workspaceFailed", "why")
    assert told([], [pending]) == []
    assert told([pending], [succeeded, Finding("InferenceReady", "True", "r", "")]) == [
        ("Normal", "WorkspaceReady"),
    ]
    assert told([succeeded], [pending]) == [("Warning", "WorkspaceNotReady")]
    assert told([pending], [failed]) == [("Warning", "WorkspaceFailed")]
    assert told([failed], [failed]) == []


# Settings


def test_settings() -> None:
    assert Settings.from_environ({}) == Settings()
    environ = {
        "PRESET_REGISTRY_NAME": "r.io/kaito/",
        "CLOUD_PROVIDER": "aws",
        "KAITO_NODE_SOURCE": "byo",
        "KAITO_WORKSPACE_NODE_GRACE_SECONDS": "60",
        "KAITO_UPGRADE_WORKLOADS": "rolling",
        "KAITO_RUNTIME_IMAGE": "r.io/{engine}:1",
    }
    settings = Settings.from_environ(environ)
    assert settings == Settings(
        "r.io/kaito",
        "aws",
        source="byo",
        node_grace=60.0,
        upgrades="rolling",
        runtime_images=images_of("r.io/{engine}:1"),
    )
    assert (settings.policy.makes_nodes, settings.policy.own_image) == (False, True)


def test_each_runtime_may_have_an_image_of_its_own() -> None:
    images = {
        runtime: f"r.io/{runtime}@sha256:{'0' * 64}" for runtime in ("transformers", "vllm", "openvino", "tuning")
    }
    environ = {f"KAITO_RUNTIME_IMAGE_{runtime.upper()}": image for runtime, image in images.items()}
    settings = Settings.from_environ(environ)
    assert (settings.runtime_images, settings.policy.own_image) == (images, True)
    with pytest.raises(ConfigError, match="KAITO_RUNTIME_IMAGE and KAITO_RUNTIME_IMAGE_TRANSFORMERS are both set"):
        Settings.from_environ(environ | {"KAITO_RUNTIME_IMAGE": "r.io/{engine}:1"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CLOUD_PROVIDER", "gcp", "CLOUD_PROVIDER is 'gcp'; it must be one of: azure, aws, arc"),
        ("KAITO_NODE_SOURCE", "cloud", "must be one of: machine, nodeclaim, byo"),
        ("KAITO_WORKSPACE_NODE_GRACE_SECONDS", "soon", "must be a number of seconds"),
        ("KAITO_UPGRADE_WORKLOADS", "always", "must be one of: never, on-change, rolling"),
        (
            "KAITO_RUNTIME_IMAGE_VLLM",
            "r.io/vllm:1",
            "KAITO_RUNTIME_IMAGE_VLLM is set without KAITO_RUNTIME_IMAGE_TRANSFORMERS, KAITO_RUNTIME_IMAGE_OPENVINO",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings.from_environ({name: value})


# Watches


def stored(resource: Resource[Any], manifest: dict[str, Any]) -> Stored[Any]:
    return Stored(resource, json.dumps(manifest).encode())


def test_orders_and_pods_lead_to_their_workspace() -> None:
    labels = {"kaito.sh/workspace": "w", "kaito.sh/workspacenamespace": "ns"}
    assert list(
        watches.workspace_of_order(stored(MACHINE_SOURCE.resource, {"metadata": {"name": "m", "labels": labels}}))
    ) == [Key("ns", "w")]
    assert list(watches.workspace_of_order(stored(MACHINE_SOURCE.resource, {"metadata": {"name": "m"}}))) == []
    found = stored(PODS, {"metadata": {"name": "p", "namespace": "ns", "labels": labels}})
    assert list(watches.workspace_of_pod(found)) == [Key("ns", "w")]
    assert watches.WORKSPACE_PODS.matches(labels)


def test_nodes_lead_to_the_workspaces_that_select_or_use_them(phi3: dict[str, Any]) -> None:
    store: Store[Workspace] = Store(WORKSPACES, on_index_error=lambda error: None)
    for name, function in watches.INDEXES.items():
        store.add_index(name, function)
    others = {"matchLabels": {"apps": "other"}}
    broken = {"matchLabels": {"apps": "not a value"}}
    for number, (name, selector, used) in enumerate(
        [
            ("selects", {"matchLabels": {"apps": "phi-3"}}, []),
            ("has enough", {"matchLabels": {"apps": "phi-3"}}, ["other"]),
            ("takes any", {}, []),
            ("uses", others, ["n"]),
            ("holds", others, ["other"]),
            ("prefers", others, ["other"]),
            ("no", others, []),
            ("x", broken, []),
        ]
    ):
        phi3["metadata"] = {"name": name, "namespace": "default", "resourceVersion": str(number + 1), "uid": name}
        phi3["resource"]["labelSelector"] = selector
        phi3["resource"]["preferredNodes"] = ["n"] if name == "prefers" else []
        phi3["status"] = {"workerNodes": used, "targetNodeCount": 1}
        store.upsert(stored(WORKSPACES, phi3))
    keys = watches.workspaces_of_node(Lister(store, lambda: None))
    held = stored(NODES, node(**{"claim.kaito.sh__default.holds": "1"}))
    assert {key.name for key in keys(held)} == {"selects", "takes any", "uses", "holds", "prefers"}
    made = {"kaito.sh__workspace": "selects", "kaito.sh__workspacenamespace": "default"}
    assert {key.name for key in keys(stored(NODES, node(**made)))} == {"selects", "uses", "prefers"}


def test_heartbeats_do_not_matter() -> None:
    def event(old: dict[str, Any], new: dict[str, Any]) -> Event[Any]:
        return Event(EventType.UPDATED, stored(NODES, old), stored(NODES, new))

    beating = node()
    beating["status"]["conditions"][0]["lastHeartbeatTime"] = "2024-11-16T12:00:00Z"
    assert not watches.node_matters(event(node(), beating))
    assert watches.node_matters(event(node(), node(ready="False")))
    assert watches.node_matters(event(node(), node(apps="x")))
    assert watches.node_matters(Event(EventType.DELETED, old=stored(NODES, node())))
    assert not watches.node_matters(Event(EventType.ADDED, new=stored(NODES, node()), initial=True))


# Setup


class Cache:
    def lister(self, resource: Resource[Any], **_: Any) -> Lister[Any]:
        return Lister(Store(resource, on_index_error=lambda error: None), lambda: None)

    def transform(self, resource: Resource[Any], transform: Any) -> None:
        pass

    def add_index(self, resource: Resource[Any], name: str, function: Any) -> None:
        pass


class FakeManager:
    client = None
    clock = SystemClock()

    def __init__(self) -> None:
        self.cache = Cache()
        self.metrics = CollectorRegistry()
        self.added: list[Controller] = []
        self.awaited: list[str] = []

    def recorder(self, name: str) -> None:
        assert name == "workspace-controller"

    def add(self, declared: Controller) -> None:
        self.added.append(declared)

    def when_served(self, resource: Resource[Any], then: Any) -> None:
        self.awaited.append(resource.kind)


@pytest.mark.parametrize(("source", "awaited"), [("machine", ["Machine"]), ("nodeclaim", ["NodeClaim"]), ("byo", [])])
def test_setup_declares_the_controller(source: str, awaited: list[str]) -> None:
    manager = FakeManager()
    controller.setup(manager, {"CLOUD_PROVIDER": "azure", "KAITO_NODE_SOURCE": source})
    (declared,) = manager.added
    assert (declared.name, declared.max_concurrent) == ("workspace", 16)
    assert [resource.kind for resource in declared.owns] == ["ControllerRevision"]
    watched = [watch.resource.kind for watch in declared.watches]
    assert watched == ["Deployment", "StatefulSet", "Job", "Service", "Node", "Pod", "ConfigMap"]
    assert manager.awaited == awaited


def test_setup_names_the_setting_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="CLOUD_PROVIDER"):
        controller.setup(FakeManager(), {"CLOUD_PROVIDER": "none"})
    with pytest.raises(ConfigError, match="KAITO_MODELS_FILE"):
        controller.setup(FakeManager(), {"KAITO_MODELS_FILE": "/nowhere/models.yaml"})
