from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito.devcluster.apiserver.objects.builtins import BUILTINS, ResourceInfo
from kaito.devcluster.apiserver.printers import table
from kaito.devcluster.apiserver.printers.duration import human_duration
from kaito.devcluster.apiserver.schema.jsonpath import JsonPath, JsonPathError

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
INFOS = {(info.group, info.kind): info for info in BUILTINS}
WIDGET = ResourceInfo("example.com", "v1", "Widget", "widgets", "widget", True, list_kind="WidgetList")


def _ago(**elapsed: float) -> str:
    return (NOW - timedelta(**elapsed)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(**parts: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x", "creationTimestamp": _ago(minutes=5, seconds=12)}, **parts}


def _row(group: str, kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    printed = table(INFOS[group, kind], [obj], columns=None, now=NOW, include_object="None")
    names = [column["name"] for column in printed["columnDefinitions"]]
    return dict(zip(names, printed["rows"][0]["cells"], strict=True))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (312, "5m12s"),
        (600, "10m"),
        (179 * 60, "179m"),
        (3 * 3600 + 240, "3h4m"),
        (8 * 3600, "8h"),
        (47 * 3600 + 3599, "47h"),
        (51 * 3600, "2d3h"),
        (8 * 86400, "8d"),
        (400 * 86400, "400d"),
        (3 * 365 * 86400 + 86400, "3y1d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_human_durations(seconds: int, expected: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == expected


def test_every_builtin_prints_a_bare_object() -> None:
    for info in BUILTINS:
        obj = {"metadata": {"name": "x"}}
        printed = table(info, [obj, {**obj, "spec": {}, "status": {}}], columns=None, now=NOW, include_object="None")
        for row in printed["rows"]:
            assert len(row["cells"]) == len(printed["columnDefinitions"])
            assert "x" in row["cells"]


def _pod(*statuses: dict[str, Any], phase: str = "Running", **status: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": f"c{index}"} for index in range(len(statuses) or 1)], "nodeName": "n1"}
    return _object(
        spec=spec, status={"phase": phase, "containerStatuses": list(statuses), "podIP": "10.0.0.1", **status}
    )


RUNNING = {"ready": True, "restartCount": 0, "state": {"running": {}}}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


@pytest.mark.parametrize(
    ("pod", "ready", "status"),
    [
        (_pod(RUNNING, RUNNING), "2/2", "Running"),
        (_pod(phase="Pending"), "0/1", "Pending"),
        (_pod({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, phase="Pending"), "0/1", "ImagePullBackOff"),
        (_pod({"state": {"terminated": {"exitCode": 3}}}, phase="Failed"), "0/1", "ExitCode:3"),
        (_pod({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, RUNNING, **READY), "1/2", "Running"),
        (_pod({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, RUNNING), "1/2", "NotReady"),
        (_pod({"state": {"terminated": {"reason": "Completed"}}}, phase="Succeeded"), "0/1", "Completed"),
        (_pod(phase="Failed", reason="Evicted"), "0/1", "Evicted"),
        (
            _pod(phase="Pending", conditions=[{"type": "PodScheduled", "reason": "SchedulingGated"}]),
            "0/1",
            "SchedulingGated",
        ),
    ],
)
def test_pod_status(pod: dict[str, Any], ready: str, status: str) -> None:
    row = _row("", "Pod", pod)
    assert (row["Ready"], row["Status"]) == (ready, status)
    assert (row["Age"], row["IP"], row["Node"], row["Nominated Node"]) == ("5m12s", "10.0.0.1", "n1", "<none>")


def test_pods_that_start_and_end() -> None:
    pod = _pod(phase="Pending", initContainerStatuses=[{"name": "i", "state": {"running": {}}}])
    pod["spec"]["initContainers"] = [{"name": "i"}, {"name": "j"}]
    assert _row("", "Pod", pod)["Status"] == "Init:0/2"
    pod["status"]["initContainerStatuses"] = [
        {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    ]
    assert _row("", "Pod", pod)["Status"] == "Init:Error"
    going = _pod(RUNNING)
    going["metadata"]["deletionTimestamp"] = _ago(seconds=1)
    assert _row("", "Pod", going)["Status"] == "Terminating"


def test_a_sidecar_counts_as_a_container() -> None:
    pod = _pod(
        RUNNING,
        initContainerStatuses=[
            {
                "name": "s",
                "started": True,
                "ready": True,
                "restartCount": 2,
            }
        ],
    )
    pod["spec"]["initContainers"] = [{"name": "s", "restartPolicy": "Always"}]
    row = _row("", "Pod", pod)
    assert (row["Ready"], row["Status"], row["Restarts"]) == ("2/2", "Running", "2")


def test_restarts_tell_when_the_last_one_was() -> None:
    restarted = {**RUNNING, "restartCount": 4, "lastState": {"terminated": {"finishedAt": _ago(minutes=3)}}}
    assert _row("", "Pod", _pod(restarted))["Restarts"] == "4 (3m ago)"


def test_readiness_gates_and_completed_rows() -> None:
    pod = _pod(RUNNING, conditions=[{"type": "a", "status": "True"}])
    pod["spec"]["readinessGates"] = [{"conditionType": "a"}, {"conditionType": "b"}]
    assert _row("", "Pod", pod)["Readiness Gates"] == "1/2"
    done = table(INFOS["", "Pod"], [_pod(phase="Succeeded")], columns=None, now=NOW, include_object="None")
    assert done["rows"][0]["conditions"][0]["reason"] == "Succeeded"


def test_nodes() -> None:
    node = _object(
        spec={"unschedulable": True},
        status={
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.32.0", "osImage": "Linux"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.4"}],
        },
    )
    node["metadata"]["labels"] = {"node-role.kubernetes.io/gpu": "", "kubernetes.io/role": "agent"}
    row = _row("", "Node", node)
    assert row["Status"] == "Ready,SchedulingDisabled"
    assert (row["Roles"], row["Version"], row["Internal-IP"], row["External-IP"]) == (
        "agent,gpu",
        "v1.32.0",
        "10.0.0.4",
        "<none>",
    )


def test_services() -> None:
    spec = {
        "type": "NodePort",
        "clusterIP": "10.96.0.9",
        "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}],
        "selector": {"b": "2", "a": "1"},
    }
    row = _row("", "Service", _object(spec=spec))
    assert (row["Cluster-IP"], row["Port(s)"], row["Selector"]) == ("10.96.0.9", "80:30080/TCP,53/UDP", "a=1,b=2")
    waiting = _object(spec={"type": "LoadBalancer"})
    assert _row("", "Service", waiting)["External-IP"] == "<pending>"
    waiting["status"] = {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}
    assert _row("", "Service", waiting)["External-IP"] == "1.2.3.4"


def test_workloads() -> None:
    template = {"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}}
    selector = {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}]}
    spec = {"replicas": 3, "template": template, "selector": selector}
    deployment = _row("apps", "Deployment", _object(spec=spec, status={"readyReplicas": 2, "updatedReplicas": 3}))
    assert (deployment["Ready"], deployment["Up-to-date"], deployment["Available"]) == ("2/3", 3, 0)
    assert (deployment["Containers"], deployment["Images"], deployment["Selector"]) == (
        "a,b",
        "i:1,j:2",
        "app=x,t in (a,b)",
    )
    assert _row("apps", "StatefulSet", _object(spec=spec, status={"readyReplicas": 1}))["Ready"] == "1/3"
    status = {"succeeded": 1, "startTime": _ago(seconds=90), "completionTime": _ago(seconds=30)}
    job = _object(spec={"completions": 1}, status={**status, "conditions": [{"type": "Complete", "status": "True"}]})
    row = _row("batch", "Job", job)
    assert (row["Status"], row["Completions"], row["Duration"]) == ("Complete", "1/1", "60s")


def test_both_event_kinds_print_alike() -> None:
    core = _object(
        involvedObject={"kind": "Pod", "name": "p"},
        type="Normal",
        reason="Pulled",
        message="done\n",
        count=3,
        lastTimestamp=_ago(seconds=9),
        source={"component": "kubelet", "host": "n1"},
    )
    new = _object(
        regarding={"kind": "Pod", "name": "p"},
        type="Normal",
        reason="Pulled",
        note="done",
        deprecatedCount=3,
        deprecatedLastTimestamp=_ago(seconds=9),
        reportingController="kubelet",
        reportingInstance="n1",
    )
    first, second = _row("", "Event", core), _row("events.k8s.io", "Event", new)
    assert first == second
    assert (first["Last Seen"], first["Object"], first["Message"], first["Count"]) == ("9s", "pod/p", "done", 3)


COLUMNS = [
    {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
    {"name": "Pool", "type": "string", "jsonPath": r".metadata.labels.karpenter\.sh/nodepool", "priority": 1},
    {"name": "Count", "type": "integer", "jsonPath": ".spec.count"},
    {"name": "Since", "type": "date", "jsonPath": ".status.since"},
    {"name": "Tags", "type": "string", "jsonPath": ".spec.tags"},
    {"name": "On", "type": "boolean", "jsonPath": ".spec.on"},
]


def _widget(obj: dict[str, Any]) -> list[Any]:
    printed = table(WIDGET, [obj], columns=COLUMNS, now=NOW, include_object="None")
    cells: list[Any] = printed["rows"][0]["cells"]
    return cells


def test_columns_of_custom_resources() -> None:
    conditions = [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]
    full = _object(
        spec={"count": 2, "tags": ["a", 1], "on": True}, status={"conditions": conditions, "since": _ago(hours=3)}
    )
    full["metadata"]["labels"] = {"karpenter.sh/nodepool": "gpu"}
    assert _widget(full) == ["x", "True", "gpu", 2, "3h", '["a",1]', True]
    assert _widget(_object()) == ["x", None, None, None, None, None, None]
    assert _widget(_object(spec={"count": "2"}, status={"since": "soon"}))[3:5] == [None, "<invalid>"]
    printed = table(WIDGET, [], columns=COLUMNS, now=NOW, include_object="None")
    assert [column["priority"] for column in printed["columnDefinitions"]] == [0, 0, 1, 0, 0, 0, 0]


def test_without_columns_name_and_age() -> None:
    printed = table(WIDGET, [_object()], columns=None, now=NOW, include_object="None")
    assert [column["name"] for column in printed["columnDefinitions"]] == ["Name", "Age"]
    assert printed["rows"] == [{"cells": ["x", "5m12s"]}]


def test_the_object_of_a_row() -> None:
    obj = _object(spec={"secret": 1})
    whole = table(WIDGET, [obj], columns=None, now=NOW, include_object="Object", api_version="meta.k8s.io/v1beta1")
    assert whole["rows"][0]["object"] == obj
    assert whole["apiVersion"] == "meta.k8s.io/v1beta1"
    meta = table(WIDGET, [obj], columns=None, now=NOW, include_object="Metadata", with_columns=False)
    assert meta["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj["metadata"],
    }
    assert meta["columnDefinitions"] is None


DOCUMENT = {"a": {"b.c": 1, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 5}]}, "e": [10, 20, 30]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (r".a.b\.c", [1]),
        ("{.a['b.c']}", [1]),
        ("$.e[0]", [10]),
        (".e[-1]", [30]),
        (".e[0,2]", [10, 30]),
        (".e[1:]", [20, 30]),
        (".e[*]", [10, 20, 30]),
        (".a.l[*].n", ["x", "y"]),
        ('.a.l[?(@.n=="y")].v', [5]),
        (".a.l[?(@.v > 1)].n", ["y"]),
        (".a.l[?(@.n)].v", [1, 5]),
        (".a.l[?(@.missing)].v", []),
        ("..n", ["x", "y"]),
        (".missing.deeper", []),
        (".e.no", []),
        (".", [DOCUMENT]),
    ],
)
def test_json_paths(path: str, expected: list[Any]) -> None:
    assert JsonPath(path).find(DOCUMENT) == expected


@pytest.mark.parametrize("path", [".a[", ".a[x]", "a", ".a..[", ".a[?(@.x ~ 1)]", ".a[?(@.x == y)]"])
def test_what_is_no_json_path(path: str) -> None:
    with pytest.raises(JsonPathError):
        JsonPath(path)
