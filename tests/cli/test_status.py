"""The tree that ``kaito status`` shows: which part is in which state, what it waits for, and that it fits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.cli.cluster.picture import Part, Seen, picture
from kaito.cli.cluster.render import duration, lines

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = "2026-01-01T11:58:00Z"


def condition(type_: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": EARLIER}


def thing(kind: str, name: str, *conditions: dict[str, str], **parts: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "creationTimestamp": EARLIER}
    metadata |= parts.pop("metadata", {})
    status = {"conditions": list(conditions), **parts.pop("status", {})}
    return {"kind": kind, "metadata": metadata, "status": status, **parts}


def workspace(*conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    return thing("Workspace", "w", *conditions, status=status)


def node(name: str, *, ready: bool = True, **labels: str) -> dict[str, Any]:
    amounts = {"nvidia.com/gpu": "1"}
    own = {"node.kubernetes.io/instance-type": "Standard_NC6s_v3"} | {
        key.replace("__", "/").replace("_", "."): value for key, value in labels.items()
    }
    status = {"capacity": amounts, "allocatable": amounts}
    return thing("Node", name, condition("Ready", str(ready)), metadata={"labels": own}, status=status)


POOLED = {"kubernetes.azure.com/agentpool": "ws1"}
DEPLOYMENT = thing(
    "Deployment",
    "w",
    spec={"replicas": 1},
    status={"readyReplicas": 1, "observedGeneration": 1},
    metadata={"generation": 1},
)
OWNED = {"ownerReferences": [{"kind": "ReplicaSet", "name": "w-1", "controller": True}]}


def states(part: Part) -> list[tuple[int, str, str, str]]:
    def walk(each: Part, depth: int) -> Any:
        yield depth, each.kind, each.name, each.state
        for below in each.parts:
            yield from walk(below, depth + 1)

    return list(walk(part, 0))


def test_everything_that_is_ready() -> None:
    member = node("aks-ws1-0")
    member["metadata"]["labels"] |= POOLED
    pod = thing("Pod", "w-1-x", condition("Ready", "True"), metadata=OWNED, spec={"nodeName": "aks-ws1-0"})
    found = picture(
        Seen(
            workspace(condition("WorkspaceSucceeded", "True", message="workspace succeeds"), workerNodes=["aks-ws1-0"]),
            [thing("Machine", "ws1", condition("MachineLaunched", "True"), condition("Ready", "True"))],
            [member],
            [DEPLOYMENT],
            [pod],
            [thing("Service", "w", spec={"clusterIP": "10.0.0.1", "ports": [{"port": 80}]})],
        )
    )
    assert states(found) == [
        (0, "Workspace", "w", "Ready"),
        (1, "Machine", "ws1", "Ready"),
        (2, "AgentPool", "ws1", "Ready"),
        (3, "Node", "aks-ws1-0", "Ready"),
        (1, "Deployment", "w", "Ready"),
        (2, "Pod", "w-1-x", "Ready"),
        (1, "Service", "w", "Ready"),
    ]
    assert found.since == NOW - timedelta(minutes=2)
    assert found.as_json()["parts"][1]["message"] == "1 of 1 ready"


@pytest.mark.parametrize(
    ("seen", "state", "says"),
    [
        (Seen(workspace()), "Waiting", "the operator has not looked at it yet"),
        (
            Seen(
                workspace(
                    condition("InferenceReady", "False", "Pending", "later"),
                    condition("ResourceReady", "False", "Pending", "nodes"),
                    condition("MachineReady", "Unknown", "CreateMachinePending", "creating 1 machine"),
                    condition("WorkspaceSucceeded", "False", "workspacePending"),
                )
            ),
            "Waiting",
            "MachineReady: creating 1 machine",
        ),
        (
            Seen(
                workspace(
                    condition("ResourceReady", "False", "workspaceResourceStatusFailed", "no such size"),
                    condition("WorkspaceSucceeded", "False", "workspaceFailed"),
                )
            ),
            "Failed",
            "ResourceReady: no such size",
        ),
        (Seen(workspace(condition("WorkspaceSucceeded", "True"), state="Succeeded")), "Done", ""),
    ],
)
def test_what_a_workspace_waits_for(seen: Seen, state: str, says: str) -> None:
    found = picture(seen)
    assert found.state == state
    assert says in found.says


def test_a_deletion_says_what_it_waits_for() -> None:
    going = workspace(condition("WorkspaceDeleting", "True", "WaitingForMachines", "waiting for Machine ws1"))
    going["metadata"]["deletionTimestamp"] = EARLIER
    order = thing("Machine", "ws1", condition("Ready", "True"), metadata={"deletionTimestamp": EARLIER})
    found = picture(Seen(going, [order]))
    assert (found.state, found.says) == ("Deleting", "WorkspaceDeleting: waiting for Machine ws1")
    assert found.parts[0].state == "Deleting"


@pytest.mark.parametrize(
    ("conditions", "state", "says"),
    [
        ((), "Waiting", "the machine controller has not looked at it yet"),
        (
            (condition("MachineLaunched", "Unknown", "Launching", "asking"), condition("Ready", "Unknown")),
            "Waiting",
            "asking",
        ),
        (
            (condition("MachineLaunched", "False", "QuotaExceeded", "no quota"), condition("Ready", "False")),
            "Failed",
            "MachineLaunched: no quota",
        ),
        (
            (
                condition("MachineInitialized", "False", "x", "later"),
                condition("MachineLaunched", "True"),
                condition("MachineRegistered", "Unknown", "x", "no node"),
                condition("Ready", "Unknown"),
            ),
            "Waiting",
            "later",
        ),
    ],
)
def test_what_a_machine_waits_for(conditions: tuple[dict[str, str], ...], state: str, says: str) -> None:
    (found,) = picture(Seen(workspace(), [thing("Machine", "ws1", *conditions)])).parts
    assert found.state == state
    assert says in found.says


def test_nodes_of_ones_own_and_nodes_that_are_gone() -> None:
    own = node("own", ready=False)
    own["spec"] = {"unschedulable": True}
    parts = picture(Seen(workspace(workerNodes=["own", "gone"]), nodes=[own, node("stranger")])).parts
    assert [(part.name, part.state) for part in parts] == [("own", "Waiting"), ("gone", "Missing")]
    assert parts[0].says == "Standard_NC6s_v3, 1 GPU; cordoned"


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        ({"phase": "Pending"}, "Waiting", "waiting for a node"),
        ({"phase": "Succeeded"}, "Done", ""),
        (
            {
                "containerStatuses": [
                    {
                        "name": "c",
                        "ready": False,
                        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "again"}},
                    }
                ]
            },
            "Failed",
            "CrashLoopBackOff",
        ),
    ],
)
def test_what_a_pod_waits_for(status: dict[str, Any], state: str, says: str) -> None:
    behind = DEPLOYMENT | {"status": {"observedGeneration": 1}}
    pod = thing("Pod", "p", metadata=OWNED, status=status)
    (deployment,) = picture(Seen(workspace(), workloads=[behind], pods=[pod])).parts
    assert deployment.state == ("Failed" if state == "Failed" else "Waiting")
    assert deployment.parts[0].state == state
    assert says in deployment.parts[0].says


def test_a_job_and_a_load_balancer() -> None:
    job = thing("Job", "w", spec={"completions": 1}, status={"succeeded": 1})
    failed = thing("Job", "w", condition("Failed", "True"), spec={}, status={"failed": 1})
    outside = {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}
    spec = {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80}]}
    services = [thing("Service", "a", spec=spec), thing("Service", "b", spec=spec, status=outside)]
    found = picture(Seen(workspace(), workloads=[job, failed], services=services)).parts
    assert [part.state for part in found] == ["Done", "Failed", "Waiting", "Ready"]
    assert found[3].says.endswith("from outside 1.2.3.4")


def test_the_tree_as_lines() -> None:
    leaf = Part("Node", "aks-1", "Waiting", "it is slow", NOW - timedelta(seconds=75))
    tree = Part("Workspace", "w", "Ready", "", NOW, (Part("Machine", "m", "Ready", "fine", None, (leaf,)), leaf))
    assert [line.plain(50) for line in lines(tree, NOW, 50)] == [
        "Workspace w                        Ready        0s",
        "├─ Machine m                       Ready",
        "│  │ fine",
        "│  └─ Node aks-1                   Waiting   1m15s",
        "│       it is slow",
        "└─ Node aks-1                      Waiting   1m15s",
        "     it is slow",
    ]


parts = st.recursive(
    st.builds(
        Part,
        kind=st.sampled_from(["Node", "Deployment"]),
        name=st.text("abc-", min_size=1, max_size=63),
        state=st.sampled_from(["Ready", "Waiting"]),
        says=st.text("ab c", max_size=200),
        since=st.one_of(
            st.none(), st.datetimes(datetime(1990, 1, 1), datetime(2025, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
        ),
    ),
    lambda below: st.builds(
        Part,
        kind=st.just("Machine"),
        name=st.just("m"),
        state=st.just("Ready"),
        parts=st.lists(below, max_size=3).map(tuple),
    ),
    max_leaves=6,
)


@given(part=parts, width=st.integers(60, 200))
def test_no_line_is_wider_than_the_terminal(part: Part, width: int) -> None:
    assert all(len(line.plain(width)) <= width for line in lines(part, NOW, width))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (75, "1m15s"),
        (3600, "1h"),
        (3725, "1h2m"),
        (40000, "11h"),
        (90000, "1d1h"),
        (900000, "10d"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
