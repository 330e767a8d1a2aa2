"""The overlays as kustomize builds them, and as an API server takes them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from support.kustomize import CONFIG, OVERLAYS, apply, build, container, installer, named

Manifest = dict[str, Any]
KINDS_OF_NODES = {"machines", "machines/status", "nodeclaims", "nodeclaims/status"}


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_the_api_server_takes_it_and_a_second_apply_changes_nothing(overlay: str, tmp_path: Path) -> None:
    built = build(tmp_path / "overlay", overlay)
    async with ApiServer(ApiServerOptions()) as server:
        kubectl = installer(server, tmp_path)
        await apply(kubectl, built)
        again = await apply(kubectl, built)
    assert len(again) == len(built)
    assert [line for line in again if not line.endswith(" unchanged")] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_it_may_be_applied_server_side(overlay: str, tmp_path: Path) -> None:
    """As Flux and Argo do it; with a sample. A second time nothing is written."""
    built = build(tmp_path / "overlay", overlay)
    sample = CONFIG / "samples" / "workspace-phi-3-mini.inference.yaml"
    async with ApiServer(ApiServerOptions()) as server:
        kubectl = installer(server, tmp_path)

        async def apply_all() -> None:
            for arguments in (("-k", str(CONFIG / overlay)), ("-f", str(sample))):
                await asyncio.to_thread(kubectl, "apply", "--server-side", *arguments)

        await apply_all()
        written = server.revision
        await apply_all()
    assert server.revision == written
    assert len(built) < written


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_field_is_set_that_the_cluster_writes(overlay: str, tmp_path: Path) -> None:
    for item in build(tmp_path, overlay):
        assert "status" not in item, item["metadata"]["name"]
        for field in ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"):
            assert field not in item["metadata"], item["metadata"]["name"]
        if item["kind"] == "Service":
            assert not {"clusterIP", "clusterIPs"} & set(item["spec"])
        for webhook in item.get("webhooks", ()):
            assert "caBundle" not in webhook["clientConfig"]


@pytest.mark.parametrize("overlay", ["overlays/aks", "overlays/nodeclaim"])
def test_the_cluster_and_the_identity_come_from_one_file(overlay: str, tmp_path: Path) -> None:
    built = build(tmp_path, overlay)
    (settings,) = [item for item in built if item["kind"] == "ConfigMap"]
    assert set(settings["data"]) == {
        "ARM_SUBSCRIPTION_ID",
        "ARM_RESOURCE_GROUP",
        "AZURE_CLUSTER_NAME",
        "AZURE_CLIENT_ID",
    }
    deployment = named(built, "Deployment", "kaito-controller-manager")
    (source,) = container(deployment)["envFrom"]
    assert source["configMapRef"]["name"] == settings["metadata"]["name"] != "kaito-azure"
    assert deployment["spec"]["template"]["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    account = named(built, "ServiceAccount", "kaito-controller-manager")
    client_id = account["metadata"]["annotations"]["azure.workload.identity/client-id"]
    assert client_id == settings["data"]["AZURE_CLIENT_ID"]


def test_workspaces_ask_for_node_claims(tmp_path: Path) -> None:
    deployment = named(build(tmp_path, "overlays/nodeclaim"), "Deployment", "kaito-controller-manager")
    assert {"name": "KAITO_NODE_SOURCE", "value": "nodeclaim"} in container(deployment)["env"]


def test_with_nodes_of_your_own_nothing_is_asked_of_a_cloud(tmp_path: Path) -> None:
    built = build(tmp_path, "overlays/byo")
    deployment = named(built, "Deployment", "kaito-controller-manager")
    assert {"--controllers=workspace", "--node-source=byo"} <= set(container(deployment)["args"])
    assert "envFrom" not in container(deployment)
    assert "azure.workload.identity/use" not in deployment["spec"]["template"]["metadata"]["labels"]
    role = named(built, "ClusterRole", "kaito-controller-manager")
    assert not KINDS_OF_NODES & {resource for rule in role["rules"] for resource in rule["resources"]}
    leases = named(built, "Role", "kaito-leader-election")
    assert [rule["resourceNames"] for rule in leases["rules"] if "resourceNames" in rule] == [["kaito-workspace"]]


def test_each_controller_has_an_account_of_its_own(tmp_path: Path) -> None:
    built = build(tmp_path, "overlays/split")
    by_controller = {}
    for name, controller in (("kaito-controller-manager", "workspace"), ("kaito-machine-controller", "machine")):
        deployment = named(built, "Deployment", name)
        spec = deployment["spec"]
        assert [flag for flag in container(deployment)["args"] if flag.startswith("--controllers")] == [
            f"--controllers={controller}"
        ]
        account = spec["template"]["spec"]["serviceAccountName"]
        assert account == name
        bound = [
            named(built, binding["roleRef"]["kind"], binding["roleRef"]["name"])
            for binding in built
            if binding["kind"] in ("RoleBinding", "ClusterRoleBinding")
            and [subject["name"] for subject in binding["subjects"]] == [account]
        ]
        leases = [rule["resourceNames"] for role in bound for rule in role["rules"] if "resourceNames" in rule]
        assert leases == [[f"kaito-{controller}"]]
        assert len(bound) == 2
        service = named(built, "Service", f"{name}-metrics")
        pods = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= pods.items()
        assert service["spec"]["selector"].items() <= pods.items()
        by_controller[controller] = (pods, named(built, "ServiceAccount", account)["metadata"])
    workspace, machine = by_controller["workspace"], by_controller["machine"]
    assert workspace[0]["app.kubernetes.io/component"] != machine[0]["app.kubernetes.io/component"]
    for pods, account in by_controller.values():
        identified = "azure.workload.identity/client-id" in account.get("annotations", {})
        assert identified == ("azure.workload.identity/use" in pods) == (pods is machine[0])
