"""The published examples, their placeholders replaced, from apply to their final state; and two that want the same nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from controllers.test_together import cloud, operator, workloads
from kaito.api.conditions import find, is_true
from kaito.api.defaulting import read_workspace
from kaito.api.resources import MACHINES, WORKSPACES
from kaito.api.workspace import Workspace
from kaito.devcluster.apiserver.wire.requests import RequestInfo
from kaito.devcluster.arm import ArmEmulator
from kaito.runtime import EVENTS, JOBS, NODES, PODS, STATEFUL_SETS, Client
from support.controlplane import ControlPlane
from support.definitions import install
from support.front import Front
from support.tenant import Tenant
from support.waiting import eventually

__all__ = ["cloud", "workloads"]

SEEDS = sorted((Path(__file__).parents[1] / "seeds").glob("*.yaml"))
REPLACED = {
    "ACR_REPO_HERE.azurecr.io/ADAPTER_HERE": "mine.azurecr.io/adapter",
    "ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE": "mine.azurecr.io/adapter",
    "ACR_REGISTRY_SECRET_HERE": "credentials",
}


def filled_in(path: Path) -> dict[str, Any]:
    text = path.read_text()
    for placeholder, own in REPLACED.items():
        text = text.replace(placeholder, own)
    manifest: dict[str, Any] = yaml.safe_load(text)
    return manifest


async def succeeds(client: Client, namespace: str, name: str) -> Workspace:
    async def done() -> Workspace:
        found = await client.get(WORKSPACES, name, namespace)
        assert is_true(found.status.conditions, "WorkspaceSucceeded"), found.status
        return found

    return await eventually(done, deadline=60.0)


async def vanishes(client: Client, namespace: str, cloud: ArmEmulator) -> None:
    for workspace in await client.list(WORKSPACES, namespace):
        await client.delete(WORKSPACES, workspace.metadata.name, namespace)

    async def gone() -> bool:
        left = [node for node in await client.list(NODES) if "kaito.sh/workspace" in node["metadata"].get("labels", {})]
        return not (cloud.pools or left or await client.list(MACHINES) or await client.list(WORKSPACES, namespace))

    await eventually(gone, deadline=60.0)


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
async def test_a_published_example_comes_to_its_end(
    path: Path, control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    await install(client)
    manifest = filled_in(path)
    name = manifest["metadata"]["name"]
    async with operator(control_plane.config, cloud):
        await client.create(WORKSPACES, read_workspace(manifest), namespace=namespace)
        found = await succeeds(client, namespace, name)
        assert found.status.state == ("Succeeded" if "tuning" in manifest else "Ready")
        (node,) = found.status.worker_nodes or ()
        pods = await client.list(PODS, namespace, labels={"kaito.sh/workspace": name})
        assert {pod["spec"]["nodeName"] for pod in pods} == {node}
        if "tuning" in manifest:
            assert (await client.get(JOBS, name, namespace))["status"]["succeeded"] == 1
        await vanishes(client, namespace, cloud)


async def test_two_workspaces_with_the_same_selector_each_have_their_own(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    await install(client)
    manifest = filled_in(next(path for path in SEEDS if path.stem == "workspace-phi-3-mini.inference"))
    async with operator(control_plane.config, cloud):
        for name in ("one", "two"):
            both = {**manifest, "metadata": {"name": name}}
            await client.create(WORKSPACES, read_workspace(both), namespace=namespace)
        one, two = [await succeeds(client, namespace, name) for name in ("one", "two")]
        assert not {*(one.status.worker_nodes or ())} & {*(two.status.worker_nodes or ())}
        for name, workspace in {"one": one, "two": two}.items():
            pods = await client.list(PODS, namespace, labels={"kaito.sh/workspace": name})
            assert {pod["spec"]["nodeName"] for pod in pods} == {*(workspace.status.worker_nodes or ())}
        await client.delete(WORKSPACES, "one", namespace)

        async def alone() -> bool:
            return len(cloud.pools) == 1

        await eventually(alone, deadline=60.0)
        after = await client.get(WORKSPACES, "two", namespace)
        assert after.status == two.status
        await vanishes(client, namespace, cloud)


async def test_a_model_over_two_nodes(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    await install(client)
    sample = Path(__file__).parents[2] / "config" / "samples" / "workspace-llama-2-13b-private.inference.yaml"
    manifest = yaml.safe_load(sample.read_text())
    name = manifest["metadata"]["name"]
    async with operator(control_plane.config, cloud):
        await client.create(WORKSPACES, read_workspace(manifest), namespace=namespace)
        found = await succeeds(client, namespace, name)
        assert len(found.status.worker_nodes or ()) == 2
        made = await client.get(STATEFUL_SETS, name, namespace)
        assert made["status"]["readyReplicas"] == 2
        pods = await client.list(PODS, namespace, labels={"kaito.sh/workspace": name})
        assert sorted(pod["spec"]["nodeName"] for pod in pods) == sorted(found.status.worker_nodes or ())
        await vanishes(client, namespace, cloud)


async def test_what_it_costs_until_a_workspace_is_ready(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator, workloads: None
) -> None:
    """Write requests of the Workspace controller, dry runs and Events among them, as an audit log has them; and none for one
    that is settled."""
    await install(client)
    manifest = filled_in(next(path for path in SEEDS if path.stem == "workspace-phi-3-mini.inference"))
    async with (
        Front(control_plane.config) as front,
        operator(control_plane.config, cloud, only="machine"),
        operator(front.config, cloud, only="workspace") as manager,
    ):

        def writes() -> list[RequestInfo]:
            return [info for info in front.audit if info.verb not in ("get", "list", "watch")]

        await client.create(WORKSPACES, read_workspace(manifest), namespace=namespace)
        await succeeds(client, namespace, manifest["metadata"]["name"])

        async def told() -> bool:
            return any(event["reason"] == "WorkspaceReady" for event in await client.list(EVENTS, namespace))

        await eventually(told)
        assert 5 < len(writes()) <= 15, writes()
        front.audit.clear()
        for other in ("first", "second"):
            labels = {"metadata": {"labels": {other: "x"}}}
            await client.patch(WORKSPACES, manifest["metadata"]["name"], labels, namespace=namespace)
        looked = manager.runtime_metrics.registry.get_sample_value
        labels_of = {"controller": "workspace", "result": "success"}

        async def settled() -> bool:
            """The controller has looked at the last change."""
            before = looked("controller_runtime_reconcile_total", labels_of)
            await asyncio.sleep(0.2)
            return before == looked("controller_runtime_reconcile_total", labels_of)

        await eventually(settled)
        assert writes() == []
    async with operator(control_plane.config, cloud):
        await vanishes(client, namespace, cloud)


async def test_a_cluster_without_machines_is_told_of_and_heals(
    control_plane: ControlPlane,
    client: Client,
    namespace: str,
    cloud: ArmEmulator,
    workloads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with both controllers in one process, and whoever else's kind is never installed."""
    monkeypatch.setattr("kaito.runtime.manager.served.PERIOD", 0.2)
    await install(client, "kaito.sh_workspaces")
    manifest = filled_in(next(path for path in SEEDS if path.stem == "workspace-phi-3-mini.inference"))
    name = manifest["metadata"]["name"]
    async with operator(control_plane.config, cloud):
        await client.create(WORKSPACES, read_workspace(manifest), namespace=namespace)

        async def told() -> bool:
            conditions = (await client.get(WORKSPACES, name, namespace)).status.conditions
            failed = find(conditions, "MachineReady")
            return failed is not None and "does not know the kind Machine" in failed.message

        await eventually(told)
        await install(client, "karpenter.sh_machines")
        await client.patch(WORKSPACES, name, {"metadata": {"labels": {"looked": "again"}}}, namespace=namespace)
        await succeeds(client, namespace, name)
        await vanishes(client, namespace, cloud)


async def test_own_nodes_need_no_machines_at_all(
    control_plane: ControlPlane, client: Client, namespace: str, cloud: ArmEmulator
) -> None:
    """No kind of Karpenter's is installed, and nothing asks for one, at the end either."""
    await install(client, "kaito.sh_workspaces")
    tenant = Tenant(client, namespace)
    async with (
        tenant.nodes("own", metal="bare-metal") as names,
        operator(control_plane.config, cloud, "byo", only="workspace"),
    ):
        await tenant.apply("own", {"preset": {"name": "phi-3-mini-4k-instruct"}})
        await tenant.serves("own")
        assert (await tenant.find(WORKSPACES, "own")).status.worker_nodes == (names["metal"],)
        await tenant.delete("own")
        labels = (await tenant.find(NODES, names["metal"]))["metadata"]["labels"]
        assert not any(key.startswith("claim.kaito.sh/") for key in labels)


async def test_the_samples_apply_as_a_whole(control_plane: ControlPlane, client: Client, namespace: str) -> None:
    await install(client)
    for path in sorted((Path(__file__).parents[2] / "config" / "samples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] == "Workspace":
                await client.create(WORKSPACES, read_workspace(document), namespace=namespace)
