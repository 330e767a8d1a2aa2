"""A Workspace as its user sees it: applied, ready, looked at, refused where it is wrong, and gone without a trace."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kaito.devcluster.operator import CLUSTER_NAME, RESOURCE_GROUP, SUBSCRIPTION
from kaito.devcluster.state import CLOUD_TOKEN
from support.cluster import DevCluster, Operator, until
from support.kubectl import Kubectl

SAMPLES = Path(__file__).resolve().parents[2] / "config" / "samples"
PHI3 = SAMPLES / "workspace-phi-3-mini.inference.yaml"
NAME = "workspace-phi-3-mini"


def pools(cluster: DevCluster) -> list[dict[str, Any]]:
    """The agent pools, as Azure's REST interface lists them."""
    url = (
        f"{cluster.running.cloud}/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers"
        f"/Microsoft.ContainerService/managedClusters/{CLUSTER_NAME}/agentPools?api-version=2024-01-01"
    )
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {CLOUD_TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        listed: list[dict[str, Any]] = json.load(answer)["value"]
    return listed


def inventory(kubectl: Kubectl) -> set[str]:
    """Every object that outlives a moment: what a deletion must leave as it was."""
    kinds = "nodes,namespaces,machines,workspaces,deployments,replicasets,services,pods,configmaps,serviceaccounts,controllerrevisions"
    found = kubectl.json("get", kinds, "--all-namespaces")["items"]
    return {f"{item['kind']}/{item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in found}


def conditions(obj: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in obj["status"]["conditions"]}


def test_a_workspace_from_apply_to_ready_to_gone(cluster: DevCluster, operator: Operator, tmp_path: Path) -> None:
    kubectl = cluster.kubectl
    before = inventory(kubectl)
    watch = kubectl.start("get", "workspace", "-w", "-o", "json", "--output-watch-events")
    kubectl("apply", "-f", str(PHI3))
    kubectl("wait", f"workspace/{NAME}", "--for=condition=WorkspaceSucceeded", "--timeout=90s")

    header, row = (line.split() for line in kubectl("get", "workspace", NAME).splitlines())
    assert header == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    assert row[:5] == [NAME, "Standard_NC6s_v3", "True", "True", "True"]
    wide = kubectl("get", "wks", "-o", "wide").splitlines()[0].split()
    assert "JOBSTARTED" in wide

    workspace = kubectl.json("get", "workspace", NAME)
    generation = workspace["metadata"]["generation"]
    found = conditions(workspace)
    assert {name for name, condition in found.items() if condition["status"] == "True"} >= {
        "MachineReady",
        "ResourceReady",
        "InferenceReady",
        "WorkspaceSucceeded",
    }
    assert {condition["observedGeneration"] for condition in found.values()} == {generation}

    (machine,) = kubectl.json("get", "machines")["items"]
    states = conditions(machine)
    order = ["MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready"]
    assert [states[name]["status"] for name in order] == ["True"] * 4
    times = [states[name]["lastTransitionTime"] for name in order]
    assert times == sorted(times)

    (pool,) = pools(cluster)
    assert pool["name"] == machine["metadata"]["name"]
    assert pool["properties"]["vmSize"] == "Standard_NC6s_v3"
    assert pool["properties"]["count"] == 1
    assert pool["properties"]["nodeTaints"] == ["sku=gpu:NoSchedule"]
    assert pool["properties"]["nodeLabels"]["apps"] == "phi-3"

    (node,) = kubectl.json("get", "nodes", "-l", f"kaito.sh/workspace={NAME}")["items"]
    assert workspace["status"]["workerNodes"] == [node["metadata"]["name"]]
    assert node["metadata"]["labels"]["accelerator"] == "nvidia"
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "1"
    assert node["metadata"]["labels"]["kaito.sh/simulated"] == "true"

    deployment = kubectl.json("get", "deployment", NAME)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        "/bin/sh",
        "-c",
        (
            "accelerate launch --gpu_ids=all --machine_rank=0 --num_machines=1 --num_processes=1 inference_api.py "
            "--pipeline=text-generation --torch_dtype=auto --trust_remote_code"
        ),
    ]
    service = kubectl.json("get", "service", NAME)
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(80, 5000), (29500, 29500)]
    (pod,) = kubectl.json("get", "pods", "-l", f"kaito.sh/workspace={NAME}")["items"]
    assert pod["spec"]["nodeName"] == node["metadata"]["name"]

    text = kubectl("describe", "workspace", NAME)
    events = text[text.index("Events:") :]
    assert "WorkspaceReady" in events or "WorkspaceSucceeded" in events
    machine_events = kubectl(
        "events", "--for", f"machine.karpenter.sh/{machine['metadata']['name']}", "--all-namespaces"
    )
    assert "Launched" in machine_events
    assert "resource" in kubectl("explain", "workspace.resource")

    kubectl("delete", "-f", str(PHI3), "--timeout=60s")
    until(lambda: not pools(cluster), "the agent pool is gone")
    # What an earlier test has left may go meanwhile.
    until(lambda: not inventory(kubectl) - before, f"nothing is left: {inventory(kubectl) - before}")

    watch.terminate()
    out, _ = watch.communicate()
    seen = order_of_truth(out)
    assert seen[-4:] == ["MachineReady", "ResourceReady", "InferenceReady", "WorkspaceSucceeded"], seen


def order_of_truth(output: str) -> list[str]:
    """The conditions in the order in which a watcher saw them become true, for a stream of watch events."""
    decoder = json.JSONDecoder()
    order: list[str] = []
    while output := output.lstrip():
        try:
            event, end = decoder.raw_decode(output)
        except json.JSONDecodeError:
            break  # the watch was ended in the middle of an event
        output = output[end:]
        status = event["object"].get("status") or {}
        for condition in status.get("conditions", []):
            if condition["status"] == "True" and condition["type"] not in order:
                order.append(condition["type"])
    return [name for name in order if name != "WorkspaceDeleting"]


def changed(change: str) -> str:
    """The sample with one thing wrong."""
    body = yaml.safe_load(PHI3.read_text())
    body["metadata"]["name"] = "wrong"
    match change:
        case "unknown field":
            body["resource"]["instanceTyp"] = "x"
        case "wrong type":
            body["resource"]["count"] = "two"
        case "no selector":
            del body["resource"]["labelSelector"]
        case "both":
            body["tuning"] = {
                "preset": {"name": "phi-3-mini-4k-instruct"},
                "method": "lora",
                "input": {"urls": ["https://example.com/data.parquet"]},
                "output": {"image": "registry.example.com/adapter:1", "imagePushSecret": "push"},
            }
        case "unknown preset":
            body["inference"]["preset"]["name"] = "gpt-5"
        case "neither":
            del body["inference"]
        case "instance type":
            body["resource"]["instanceType"] = "Basic_A1"
    return yaml.safe_dump(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("unknown field", 'unknown field "resource.instanceTyp"'),
        ("wrong type", "resource.count"),
        ("no selector", "resource.labelSelector"),
        ("both", "inference"),
        ("unknown preset", "inference.preset.name"),
        ("neither", "inference"),
        ("instance type", "resource.instanceType"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_field(
    kubectl: Kubectl, installed_cluster: DevCluster, change: str, words: str
) -> None:
    assert words in kubectl.fails("apply", "-f", "-", stdin=changed(change))
    assert kubectl.json("get", "workspaces")["items"] == []


@pytest.mark.parametrize(
    ("given", "placeholder"),
    [
        ("registry.example.com/kaito/phi-3-adapter:0.0.1", "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1"),
        ("registry-credentials", "ACR_REGISTRY_SECRET_HERE"),
    ],
    ids=["image", "secret"],
)
def test_a_placeholder_is_refused_with_the_field_and_what_to_do(
    kubectl: Kubectl, installed_cluster: DevCluster, given: str, placeholder: str
) -> None:
    manifest = (SAMPLES / "workspace-phi-3-mini.tuning.yaml").read_text()
    assert given in manifest
    text = kubectl.fails("apply", "-f", "-", stdin=manifest.replace(given, placeholder))
    assert "placeholder" in text
    assert "tuning.output" in text


def test_what_may_not_change_is_refused(kubectl: Kubectl, installed_cluster: DevCluster) -> None:
    body = yaml.safe_load(PHI3.read_text())
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    try:
        body["resource"]["instanceType"] = "Standard_NC12s_v3"
        assert "resource.instanceType" in kubectl.fails("apply", "-f", "-", stdin=yaml.safe_dump(body))
        patch = '{"inference":{"preset":{"name":"phi-3-mini-128k-instruct"}}}'
        assert "preset" in kubectl.fails("patch", "workspace", NAME, "--type=merge", "-p", patch)
    finally:
        kubectl("delete", "workspace", NAME, "--wait=false")


def test_the_operator_reports_itself(operator: Operator) -> None:
    assert operator.get("probes", "/healthz") == (200, "ok")
    assert operator.get("probes", "/readyz") == (200, "ok")
    until(operator.leads, "it leads")
    status, text = operator.get("metrics", "/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "controller_runtime_reconcile",
        "workqueue_depth",
        "rest_client_requests",
        "leader_election_master_status",
    } <= names
    assert 'controller_runtime_max_concurrent_reconciles{controller="workspace"}' in text
    assert 'leader_election_master_status{name="kaito-machine-workspace"} 1.0' in text


def test_the_idle_operator_is_small(operator: Operator) -> None:
    assert operator.resident_bytes() < 80e6, f"{operator.resident_bytes() / 1e6:.0f} MB"
    assert "forbidden" not in operator.text, "the roles in config/rbac allow all that the operator does"
