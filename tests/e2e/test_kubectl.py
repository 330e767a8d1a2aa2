"""What kubectl does against the local cluster is what it does against a real one."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kubectl import Kubectl


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(name: str, replicas: int = 1, image: str = "nginx:1.27", **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}},
            **spec,
        },
    }


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_apply_creates_updates_and_knows_what_is_unchanged(kubectl: Kubectl) -> None:
    assert kubectl.apply(config_map("a", x="1")) == "configmap/a created\n"
    assert kubectl.apply(config_map("a", x="1")) == "configmap/a unchanged\n"
    assert kubectl.apply(config_map("a", x="2", z="3")) == "configmap/a configured\n"
    assert kubectl.apply(config_map("a", z="3")) == "configmap/a configured\n"
    assert kubectl.json("get", "configmap", "a")["data"] == {"z": "3"}
    assert kubectl("apply", "-f", "-", "--dry-run=server", stdin=yaml.safe_dump(config_map("b"))) == (
        "configmap/b created (server dry run)\n"
    )
    assert "NotFound" in kubectl.fails("get", "configmap", "b")


def test_apply_of_a_deployment_is_a_strategic_patch(kubectl: Kubectl) -> None:
    body = deployment("web")
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "busybox:1"})
    kubectl.apply(body)
    kubectl("set", "env", "deployment/web", "-c", "main", "KEEP=me")
    body["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:1.28"
    del body["spec"]["template"]["spec"]["containers"][1]
    assert kubectl.apply(body) == "deployment.apps/web configured\n"
    containers = kubectl.json("get", "deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [(item["name"], item["image"]) for item in containers] == [("main", "nginx:1.28")]
    assert containers[0]["env"] == [{"name": "KEEP", "value": "me"}]


def test_apply_of_a_kustomization(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["all.yaml"], "namePrefix": "pre-"}))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([config_map("a"), deployment("web", 0)]))
    assert kubectl("apply", "-k", str(tmp_path)) == "configmap/pre-a created\ndeployment.apps/pre-web created\n"
    assert kubectl("delete", "-k", str(tmp_path)).count("deleted") == 2


def test_get_in_every_output_format(kubectl: Kubectl) -> None:
    kubectl.apply(config_map("a", x="1"), config_map("b"))
    table = rows(kubectl("get", "configmaps", "a", "b"))
    assert table[0] == ["NAME", "DATA", "AGE"]
    assert [row[:2] for row in table[1:]] == [["a", "1"], ["b", "0"]]
    assert kubectl("get", "cm", "a", "-o", "name") == "configmap/a\n"
    assert kubectl("get", "cm", "a", "-o", "jsonpath={.data.x}") == "1"
    assert yaml.safe_load(kubectl("get", "cm", "a", "-o", "yaml"))["data"] == {"x": "1"}
    assert json.loads(kubectl("get", "cm", "a", "-o", "json"))["kind"] == "ConfigMap"
    assert rows(kubectl("get", "cm", "a", "-o", "custom-columns=N:.metadata.name,X:.data.x")) == [
        ["N", "X"],
        ["a", "1"],
    ]
    assert "No resources found" in kubectl.run("get", "secrets").stderr
    kubectl.apply(deployment("web", 0))
    assert "SELECTOR" in kubectl("get", "deployment", "web", "-o", "wide").splitlines()[0]


def test_get_selects_sorts_and_pages(kubectl: Kubectl) -> None:
    for number in range(5):
        body = config_map(f"c{number}")
        body["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        kubectl.apply(body)
    assert kubectl("get", "cm", "-l", "parity=odd", "-o", "name").split() == ["configmap/c1", "configmap/c3"]
    assert len(kubectl("get", "cm", "-l", "parity in (odd,even)", "-o", "name").split()) == 5
    assert kubectl("get", "cm", "--field-selector", "metadata.name=c2", "-o", "name").split() == ["configmap/c2"]
    assert len(kubectl("get", "cm", "--chunk-size=2", "-l", "parity", "-o", "name").split()) == 5
    assert "is not a known field selector" in kubectl.fails("get", "cm", "--field-selector", "data.x=1")
    assert kubectl("get", "cm", "-l", "parity", "--sort-by=.metadata.name", "-o", "name").split()[0] == "configmap/c0"
    assert "configmap" in kubectl("get", "cm", "-A", "-o", "name")


def test_get_watch_shows_changes(kubectl: Kubectl) -> None:
    kubectl.apply(config_map("a", x="1"))
    watch = kubectl.start("get", "configmap", "a", "-w", "-o", "jsonpath={.data.x}{'\\n'}")
    assert watch.stdout is not None
    try:
        assert watch.stdout.readline() == "1\n"
        kubectl("patch", "configmap", "a", "--type=merge", "-p", '{"data":{"x":"2"}}')
        assert watch.stdout.readline() == "2\n"
    finally:
        watch.terminate()
        watch.communicate()


def test_describe_and_events(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("web"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    text = kubectl("describe", "deployment", "web")
    assert "Replicas:               1 desired | 1 updated | 1 total | 1 available | 0 unavailable" in text
    assert "ScalingReplicaSet" in text
    pod = kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
    assert "Scheduled" in kubectl("describe", "pod", pod)
    assert "Scheduled" in kubectl("events", "--for", f"pod/{pod}")
    assert "Scheduled" in kubectl("get", "events", "--field-selector", f"involvedObject.name={pod}")
    assert "nvidia" not in kubectl("describe", "namespace", kubectl.namespace)


def test_wait_for_condition_jsonpath_and_deletion(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("web"))
    assert "condition met" in kubectl("wait", "deployment/web", "--for=condition=Available", "--timeout=30s")
    assert "condition met" in kubectl(
        "wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=1", "--timeout=30s"
    )
    waiting = kubectl.start("wait", "deployment/web", "--for=delete", "--timeout=30s")
    kubectl("delete", "deployment", "web")
    out, _ = waiting.communicate(timeout=40)
    assert waiting.returncode == 0, out
    assert "timed out" in kubectl.fails("wait", "namespace/default", "--for=condition=Nonsense", "--timeout=1s")


def test_patch_of_every_type(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("web", 0))
    kubectl(
        "patch",
        "deployment",
        "web",
        "-p",
        '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"b"}]}}}}',
    )
    kubectl(
        "patch",
        "deployment",
        "web",
        "--type=json",
        "-p",
        '[{"op":"replace","path":"/spec/revisionHistoryLimit","value":3}]',
    )
    kubectl("patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"annotations":{"a":"b"}}}')
    found = kubectl.json("get", "deployment", "web")
    assert {item["name"] for item in found["spec"]["template"]["spec"]["containers"]} == {"main", "side"}
    assert found["spec"]["revisionHistoryLimit"] == 3
    assert found["metadata"]["annotations"]["a"] == "b"
    assert "no change" in kubectl(
        "patch", "deployment", "web", "--type=merge", "-p", '{"metadata":{"annotations":{"a":"b"}}}'
    )
    assert "invalid" in kubectl.fails("patch", "deployment", "web", "-p", '{"spec":{"replicas":-1}}').lower()


def test_patch_of_status_leaves_the_rest(kubectl: Kubectl) -> None:
    node = f"node-{kubectl.namespace}"
    kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    try:
        body = '{"spec":{"unschedulable":true},"status":{"capacity":{"nvidia.com/gpu":"4"}}}'
        kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", body)
        found = kubectl.json("get", "node", node)
        assert found["status"]["capacity"]["nvidia.com/gpu"] == "4"
        assert "unschedulable" not in found["spec"]
    finally:
        kubectl("delete", "node", node)


def test_edit_with_an_editor(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.apply(config_map("a", x="1"), deployment("web", 0))
    editor = tmp_path / "editor"
    editor.write_text(
        '#!/bin/sh\nsed -e \'s/x: "1"/x: "edited"/\' -e \'s/nginx:1.27/nginx:edited/\' "$1" > "$1.new" && mv "$1.new" "$1"\n'
    )
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    editing = Kubectl(kubectl.binary, kubectl.kubeconfig, kubectl.home, kubectl.namespace, {"EDITOR": str(editor)})
    assert "edited" in editing("edit", "configmap", "a")
    assert kubectl.json("get", "configmap", "a")["data"] == {"x": "edited"}
    assert "edited" in editing("edit", "deployment", "web")
    containers = kubectl.json("get", "deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "nginx:edited"
    assert "no changes made" in editing.run("edit", "configmap", "a").stderr


def test_label_and_annotate(kubectl: Kubectl) -> None:
    kubectl.apply(config_map("a"))
    kubectl("label", "configmap", "a", "x=1")
    assert "already has a value" in kubectl.fails("label", "configmap", "a", "x=2")
    kubectl("label", "configmap", "a", "x=2", "--overwrite")
    kubectl("annotate", "configmap", "a", "note=hello")
    kubectl("label", "configmap", "a", "x-")
    metadata = kubectl.json("get", "configmap", "a")["metadata"]
    assert "x" not in metadata.get("labels", {})
    assert metadata["annotations"]["note"] == "hello"


def test_scale_and_roll_out(kubectl: Kubectl) -> None:
    kubectl.apply(deployment("web"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    kubectl("scale", "deployment/web", "--replicas=3")
    kubectl("wait", "deployment/web", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=30s")
    kubectl("set", "image", "deployment/web", "main=nginx:1.28")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    assert len(rows(kubectl("get", "replicasets", "-l", "app=web", "--no-headers"))) == 2
    assert "REVISION" in kubectl("rollout", "history", "deployment/web")
    kubectl("rollout", "undo", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    found = kubectl.json("get", "deployment", "web")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1.27"
    kubectl("rollout", "restart", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_delete_cascades_as_asked(kubectl: Kubectl, cascade: str) -> None:
    kubectl.apply(deployment("web"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    kubectl("delete", "deployment", "web", f"--cascade={cascade}", "--timeout=30s")
    assert "NotFound" in kubectl.fails("get", "deployment", "web")
    if cascade == "orphan":
        (replica_set,) = kubectl.json("get", "replicasets")["items"]
        assert not replica_set["metadata"].get("ownerReferences")
        kubectl("delete", "replicaset", replica_set["metadata"]["name"])
    if cascade == "foreground":
        assert kubectl.json("get", "replicasets")["items"] == []
    kubectl("wait", "pods", "-l", "app=web", "--for=delete", "--timeout=30s")


def test_delete_waits_for_finalizers(kubectl: Kubectl) -> None:
    body = config_map("a")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    kubectl.apply(body)
    deleting = kubectl.start("delete", "configmap", "a")
    kubectl("wait", "configmap/a", "--for=jsonpath={.metadata.deletionTimestamp}", "--timeout=10s")
    assert deleting.poll() is None
    kubectl("patch", "configmap", "a", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    out, _ = deleting.communicate(timeout=20)
    assert deleting.returncode == 0, out
    assert "NotFound" in kubectl.fails("get", "configmap", "a")
    assert "deleted" in kubectl("delete", "configmap", "--all")


def test_create_by_command(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "a", "--from-literal=x=1")
    kubectl("create", "secret", "generic", "s", "--from-literal=password=hunter2")
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={kubectl.namespace}:robot")
    assert kubectl.json("get", "secret", "s")["data"] == {"password": "aHVudGVyMg=="}
    assert "already exists" in kubectl.fails("create", "configmap", "a")
    assert kubectl("create", "token", "robot").count(".") == 2


def test_auth_can_i_answers_by_the_roles(kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={kubectl.namespace}:robot")
    robot = f"--as=system:serviceaccount:{kubectl.namespace}:robot"
    assert kubectl("auth", "can-i", "list", "configmaps", robot) == "yes\n"
    assert "no" in kubectl.fails("auth", "can-i", "delete", "configmaps", robot)
    assert "no" in kubectl.fails("auth", "can-i", "list", "configmaps", robot, "-n", "default")
    assert "forbidden" in kubectl.fails("get", "secrets", robot).lower()
    kubectl("get", "configmaps", robot)
    assert kubectl("auth", "can-i", "*", "*") == "yes\n"
    assert "kubernetes-admin" in kubectl("auth", "whoami")


def test_diff_and_replace(kubectl: Kubectl) -> None:
    kubectl.apply(config_map("a", x="1"))
    assert kubectl("diff", "-f", "-", stdin=yaml.safe_dump(config_map("a", x="1"))) == ""
    different = kubectl.run("diff", "-f", "-", stdin=yaml.safe_dump(config_map("a", x="2")))
    assert different.returncode == 1
    assert '-  x: "1"' in different.stdout
    assert '+  x: "2"' in different.stdout
    body = kubectl.json("get", "configmap", "a")
    body["data"] = {"z": "9"}
    assert kubectl("replace", "-f", "-", stdin=json.dumps(body)) == "configmap/a replaced\n"
    assert "Conflict" in kubectl.fails("replace", "-f", "-", stdin=json.dumps(body))


def test_discovery(kubectl: Kubectl) -> None:
    resources = kubectl("api-resources", "--namespaced=true", "-o", "name").split()
    assert {"pods", "configmaps", "deployments.apps", "jobs.batch", "leases.coordination.k8s.io"} <= set(resources)
    assert "apps/v1" in kubectl("api-versions").split()
    assert "is running at" in kubectl("cluster-info")
    assert "Server Version: v1.32" in kubectl("version")
    assert "KIND:       Deployment" in kubectl("explain", "deployment")
    assert "replicas" in kubectl("explain", "deployment.spec")
    assert kubectl("get", "--raw", "/readyz") == "ok"


def test_jobs_and_stateful_sets_live(kubectl: Kubectl) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}},
    }
    labels = {"app": "db"}
    stateful = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "replicas": 2,
            "serviceName": "db",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "postgres:17"}]},
            },
        },
    }
    kubectl.apply(job, stateful)
    kubectl("wait", "job/once", "--for=condition=Complete", "--timeout=30s")
    kubectl("rollout", "status", "statefulset/db", "--timeout=30s")
    assert kubectl("get", "pods", "-l", "app=db", "-o", "name").split() == ["pod/db-0", "pod/db-1"]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db"},
        "spec": {"selector": labels, "ports": [{"port": 5432}]},
    }
    kubectl.apply(service)
    kubectl("wait", "endpoints/db", "--for=jsonpath={.subsets[0].addresses[1].ip}", "--timeout=30s")


def test_a_namespace_takes_everything_with_it(kubectl: Kubectl) -> None:
    name = f"{kubectl.namespace}-inner"
    kubectl("create", "namespace", name)
    inner = Kubectl(kubectl.binary, kubectl.kubeconfig, kubectl.home, name)
    inner.apply(deployment("web"), config_map("a"))
    kubectl("delete", "namespace", name, "--timeout=40s")
    assert "NotFound" in kubectl.fails("get", "namespace", name)
    assert "NotFound" in kubectl.fails("get", "deployment", "web", "-n", name)


def test_server_side_apply_owns_fields(kubectl: Kubectl) -> None:
    def apply(body: dict[str, Any], *arguments: str, refused: bool = False) -> str:
        run = kubectl.fails if refused else kubectl
        return run("apply", "--server-side", "-f", "-", *arguments, stdin=yaml.safe_dump(body))

    def version() -> str:
        return kubectl("get", "configmap", "a", "-o", "jsonpath={.metadata.resourceVersion}")

    assert apply(config_map("a", x="1")) == "configmap/a serverside-applied\n"
    before = version()
    apply(config_map("a", x="1"))
    assert version() == before
    assert "managedFields" not in kubectl("get", "configmap", "a", "-o", "yaml")
    shown = yaml.safe_load(kubectl("get", "configmap", "a", "-o", "yaml", "--show-managed-fields"))
    assert shown["metadata"]["managedFields"][0]["manager"] == "kubectl"
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .data.x' in apply(
        config_map("a", x="2", z="3"), "--field-manager=other", refused=True
    )
    apply(config_map("a", x="2", z="3"), "--field-manager=other", "--force-conflicts")
    kubectl("annotate", "configmap", "a", "by=hand")
    apply(config_map("a", z="3"), "--field-manager=other")
    left = kubectl.json("get", "configmap", "a")
    assert left["data"] == {"z": "3"}
    assert left["metadata"]["annotations"] == {"by": "hand"}

    apply(deployment("web", 0))
    kubectl("scale", "deployment", "web", "--replicas=1")
    refused = apply(deployment("web", 0), refused=True)
    assert 'conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas' in refused


def test_server_side_apply_takes_over_what_was_applied_before(kubectl: Kubectl) -> None:
    kubectl.apply(config_map("a", x="1", w="2"))
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(config_map("a", x="3")))
    assert kubectl.json("get", "configmap", "a")["data"] == {"x": "3"}
    assert kubectl.apply(config_map("a", x="4", z="5")) == "configmap/a configured\n"
    assert kubectl.json("get", "configmap", "a")["data"] == {"x": "4", "z": "5"}


def test_workloads_are_created_without_a_manifest(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2", "--port=80")
    kubectl("rollout", "status", "deployment/web", "--timeout=40s")
    kubectl("autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu-percent=80")
    assert kubectl.json("get", "hpa", "web")["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 80
    kubectl("create", "job", "once", "--image=busybox", "--", "date")
    kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=40s")
    kubectl("create", "cronjob", "often", "--image=busybox", "--schedule=*/5 * * * *", "--", "date", "-u")
    kubectl("create", "job", "now", "--from=cronjob/often")
    (container,) = kubectl.json("get", "job", "now")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["date", "-u"]
