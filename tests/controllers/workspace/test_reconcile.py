"""The life of a Workspace, played against a cluster in a dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kaito.api.resources import MACHINES, WORKSPACES
from kaito.runtime import (
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    NODES,
    PODS,
    SERVICES,
    Forbidden,
    ServiceUnavailable,
    TerminalError,
)

if TYPE_CHECKING:
    from conftest import Harness

MACHINE_LABELS = {"kaito.sh/workspace": "w", "kaito.sh/workspacenamespace": "default"}


async def test_from_apply_to_ready(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.workspace()["metadata"]["finalizers"] == ["workspace.finalizer.kaito.sh"]
    (machine,) = harness.cluster.names(MACHINES)
    assert harness.conditions() == {
        "MachineReady": ("Unknown", "CreateMachinePending"),
        "ResourceReady": ("False", "workspaceResourceStatusNotReady"),
        "InferenceReady": ("False", "WorkspaceInferenceStatusPending"),
        "WorkspaceSucceeded": ("False", "workspacePending"),
    }
    assert harness.message("MachineReady") == f"creating 1 machine; Machine {machine}: waiting for MachineLaunched"

    harness.machine_becomes(machine, MachineLaunched="Unknown Launching")
    await harness.reconcile()
    assert harness.message("MachineReady").endswith("Launching: so it says")

    harness.machine_delivers(machine, "aks-gpu-0", gpus=0)
    await harness.reconcile()
    assert harness.cluster.read(NODES, "aks-gpu-0")["metadata"]["labels"]["accelerator"] == "nvidia"
    assert harness.conditions()["MachineReady"] == ("Unknown", "installNodePluginsPending")
    assert "aks-gpu-0" in harness.message("MachineReady")

    harness.cluster.edit(
        NODES, "aks-gpu-0", {"status": {"capacity": {"nvidia.com/gpu": "1"}, "allocatable": {"nvidia.com/gpu": "1"}}}
    )
    await harness.reconcile()
    assert harness.conditions() == {
        "MachineReady": ("True", "installNodePluginsSuccess"),
        "ResourceReady": ("True", "workspaceResourceStatusSuccess"),
        "InferenceReady": ("False", "WorkspaceInferenceStatusPending"),
        "WorkspaceSucceeded": ("False", "workspacePending"),
    }
    assert harness.workspace()["status"]["workerNodes"] == ["aks-gpu-0"]
    assert harness.message("InferenceReady") == "0 of 1 replicas are ready"

    harness.deployment_becomes(ready=1)
    await harness.reconcile()
    assert {status for status, _ in harness.conditions().values()} == {"True"}
    assert harness.conditions()["WorkspaceSucceeded"] == ("True", "workspaceSucceeded")
    generation = harness.workspace()["metadata"]["generation"]
    assert {item["observedGeneration"] for item in harness.workspace()["status"]["conditions"]} == {generation}
    assert harness.recorder.reasons == ["MachineCreated", "DeploymentCreated", "ResourceReady", "WorkspaceReady"]


async def test_a_settled_workspace_causes_no_writes(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.cluster.writes.clear()
    await harness.reconcile()
    assert harness.cluster.writes == []


async def test_one_status_write_a_pass(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    assert [write for write in harness.cluster.writes if write[3] == "status"] == [
        ("patch", "workspaces", "w", "status")
    ]


async def test_existing_nodes_are_used_before_machines_are_made(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("byo", accelerator="nvidia")
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert harness.workspace()["status"]["workerNodes"] == ["byo"]


async def test_a_node_that_its_machine_has_not_prepared_is_not_used_yet(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    harness.machine_delivers(machine, "aks-gpu-0")
    harness.machine_becomes(machine, MachineInitialized="False NodeNotReady", Ready="False NodeNotReady")
    await harness.reconcile()
    assert harness.conditions()["MachineReady"] == ("Unknown", "CreateMachinePending")
    assert harness.cluster.names(DEPLOYMENTS) == []
    harness.machine_delivers(machine, "aks-gpu-0")
    await harness.reconcile()
    assert harness.conditions()["MachineReady"] == ("True", "installNodePluginsSuccess")


async def test_only_what_is_missing_is_made(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("byo")
    phi3["resource"]["count"] = 3
    harness.apply(phi3)
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 2
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 2


async def test_a_crash_after_creating_makes_no_second_machine(harness: Harness, phi3: dict[str, Any]) -> None:
    """The status write never happened, and another process takes over."""
    harness.apply(phi3)
    harness.cluster.refuse["patch", "workspaces"] = ServiceUnavailable("down")
    with pytest.raises(ServiceUnavailable):
        await harness.reconcile()
    del harness.cluster.refuse["patch", "workspaces"]
    await harness.reconcile()
    first = harness.cluster.names(MACHINES)
    harness.cluster.edit(WORKSPACES, "w", {"status": None})
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == first
    assert len(first) == 1


async def test_a_machine_that_the_cache_does_not_know_is_adopted(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (name,) = harness.cluster.names(MACHINES)
    harness.cluster.blind.add(MACHINES)
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == [name]
    assert harness.conditions()["MachineReady"] == ("Unknown", "CreateMachinePending")


async def test_a_foreign_machine_of_the_same_name_is_left_alone(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (name,) = harness.cluster.names(MACHINES)
    harness.cluster.edit(MACHINES, name, {"metadata": {"labels": {"kaito.sh/workspace": "other"}}})
    await harness.reconcile()
    assert harness.conditions()["MachineReady"] == ("False", "machineFailedCreation")
    assert "was not made for this Workspace" in harness.message("MachineReady")


async def test_a_machine_that_is_being_deleted_keeps_its_slot(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (name,) = harness.cluster.names(MACHINES)
    harness.cluster.edit(
        MACHINES,
        name,
        {"metadata": {"finalizers": ["karpenter.sh/termination"], "deletionTimestamp": "2024-11-16T12:00:00Z"}},
    )
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == [name]
    assert f"Machine {name} is being deleted" in harness.message("MachineReady")
    harness.cluster.remove(MACHINES, name)
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == [name]
    assert harness.cluster.read(MACHINES, name)["metadata"].get("deletionTimestamp") is None


async def test_the_one_machine_that_went_is_made_again(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["resource"]["count"] = 2
    harness.apply(phi3)
    await harness.reconcile()
    before = harness.cluster.names(MACHINES)
    for name in before:
        harness.cluster.remove(MACHINES, name)
        await harness.reconcile()
        assert harness.cluster.names(MACHINES) == before


async def test_a_failed_launch_is_told_in_the_clouds_words(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (name,) = harness.cluster.names(MACHINES)
    harness.machine_becomes(name, MachineLaunched="False LaunchFailed")
    await harness.reconcile()
    assert harness.conditions()["MachineReady"] == ("False", "machineFailedCreation")
    assert harness.message("WorkspaceSucceeded") == f"Machine {name}: LaunchFailed: so it says"
    assert ("Warning", "WorkspaceFailed") in [event[:2] for event in harness.recorder.events]


async def test_a_lost_node_takes_the_conditions_back(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.cluster.edit(NODES, "node-0", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    await harness.reconcile()
    assert harness.conditions() == {
        "MachineReady": ("Unknown", "CreateMachinePending"),
        "ResourceReady": ("False", "workspaceResourceStatusNotReady"),
        "InferenceReady": ("False", "WorkspaceInferenceStatusPending"),
        "WorkspaceSucceeded": ("False", "workspacePending"),
    }
    assert "node node-0 is not Ready" in harness.message("MachineReady")
    assert len(harness.cluster.names(MACHINES)) == 1
    assert harness.recorder.reasons[-1] == "WorkspaceNotReady"


async def test_a_deployment_that_loses_its_pods_is_not_ready(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.deployment_becomes(ready=0)
    await harness.reconcile()
    assert harness.conditions()["InferenceReady"] == ("False", "WorkspaceInferenceStatusPending")
    assert harness.conditions()["ResourceReady"][0] == "True"


async def test_an_old_observation_is_not_readiness(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.deployment_becomes(ready=1, observedGeneration=0)
    await harness.reconcile()
    assert harness.conditions()["InferenceReady"][0] == "False"


async def test_a_pods_trouble_is_told(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.deployment_becomes(ready=0)
    harness.cluster.put(
        PODS,
        {
            "metadata": {"name": "w-abc", "labels": {"kaito.sh/workspace": "w"}},
            "status": {
                "containerStatuses": [
                    {"name": "w", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling"}}}
                ]
            },
        },
    )
    await harness.reconcile()
    assert harness.conditions()["InferenceReady"] == ("False", "ImagePullError")
    assert "ImagePullBackOff: container w of pod w-abc: Back-off pulling" in harness.message("InferenceReady")


async def test_a_deployment_that_does_not_progress_has_failed(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    harness.deployment_becomes(ready=0, conditions=[condition])
    await harness.reconcile()
    assert harness.message("InferenceReady") == ("deployment w is not progressing: ProgressDeadlineExceeded: timed out")


async def test_an_edit_of_an_owned_field_is_undone(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.cluster.edit(DEPLOYMENTS, "w", {"spec": {"replicas": 5, "paused": True}})
    harness.cluster.edit(SERVICES, "w", {"spec": {"selector": {"kaito.sh/workspace": "x"}}, "metadata": {"labels": {}}})
    await harness.reconcile()
    spec = harness.cluster.read(DEPLOYMENTS, "w")["spec"]
    assert (spec["replicas"], spec["paused"]) == (1, True)
    assert harness.cluster.read(SERVICES, "w")["spec"]["selector"] == {"kaito.sh/workspace": "w"}
    assert {"EditUndone", "ServiceUpdated"} <= set(harness.recorder.reasons)


async def test_what_the_server_defaults_is_no_difference(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    pod = deployment["spec"]["template"]["spec"]
    pod |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "securityContext": {}}
    pod["containers"][0] |= {"imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log"}
    pod["containers"][0]["ports"][0]["protocol"] = "TCP"
    pod["containers"][0]["livenessProbe"] |= {"timeoutSeconds": 1, "failureThreshold": 3}
    harness.cluster.put(DEPLOYMENTS, deployment)
    service = harness.cluster.read(SERVICES, "w")
    service["spec"] |= {"clusterIP": "10.0.0.1", "sessionAffinity": "None"}
    service["spec"]["ports"][0]["nodePort"] = 30080
    harness.cluster.put(SERVICES, service)
    harness.cluster.writes.clear()
    await harness.reconcile()
    assert harness.cluster.writes == []


async def test_a_deployment_of_someone_else_is_left_alone(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("byo", accelerator="nvidia")
    harness.cluster.put(DEPLOYMENTS, {"metadata": {"name": "w"}, "spec": {"replicas": 7}})
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.cluster.read(DEPLOYMENTS, "w")["spec"] == {"replicas": 7}
    assert "belongs to nobody: delete it, or give the Workspace another name" in harness.message("InferenceReady")


async def test_leftovers_of_an_earlier_workspace_are_waited_for(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("byo", accelerator="nvidia")
    owner = {"kind": "Workspace", "name": "w", "uid": "old", "controller": True, "apiVersion": "kaito.sh/v1alpha1"}
    harness.cluster.put(SERVICES, {"metadata": {"name": "w", "ownerReferences": [owner]}, "spec": {}})
    harness.apply(phi3)
    result = await harness.reconcile()
    assert result is not None
    assert result.requeue_after == pytest.approx(2.0)
    assert harness.conditions()["InferenceReady"] == ("False", "WorkspaceInferenceStatusPending")


async def test_what_the_server_refuses_is_told_and_tried_again(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    harness.cluster.refuse["create", "machines"] = Forbidden("machines is forbidden: quota")
    with pytest.raises(Forbidden):
        await harness.reconcile()
    assert harness.conditions()["MachineReady"] == ("False", "machineFailedCreation")
    assert harness.message("WorkspaceSucceeded") == "machines is forbidden: quota"


async def test_a_passing_error_leaves_the_status_alone(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    harness.cluster.refuse["create", "machines"] = ServiceUnavailable("try again")
    with pytest.raises(ServiceUnavailable):
        await harness.reconcile()
    assert harness.conditions() == {}


async def test_an_impossible_workspace_costs_nothing(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"]["preset"]["name"] = "phi-99"
    harness.apply(phi3)
    with pytest.raises(TerminalError, match=r"inference\.preset\.name: 'phi-99' is not a supported preset"):
        await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert harness.conditions()["WorkspaceSucceeded"] == ("False", "workspaceFailed")


async def test_deletion_takes_machines_first(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    (name,) = harness.cluster.names(MACHINES)
    harness.cluster.put(MACHINES, {"metadata": {"name": "foreign", "labels": {"kaito.sh/workspace": "x"}}})
    harness.cluster.edit(MACHINES, name, {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    finalizers = ["example.com/mine", "workspace.finalizer.kaito.sh"]
    harness.cluster.edit(WORKSPACES, "w", {"metadata": {"finalizers": finalizers}})
    await harness.cluster.delete(WORKSPACES, "w")
    await harness.reconcile()
    assert harness.conditions()["WorkspaceDeleting"] == ("True", "workspaceDeleted")
    assert harness.message("WorkspaceDeleting") == f"workspace is being deleted: waiting for Machine {name}"
    assert harness.cluster.read(MACHINES, name)["metadata"]["deletionTimestamp"]
    harness.cluster.writes.clear()
    await harness.reconcile()
    assert harness.cluster.writes == []

    harness.cluster.remove(MACHINES, name)
    await harness.reconcile()
    assert harness.workspace()["metadata"]["finalizers"] == ["example.com/mine"]
    assert harness.cluster.names(MACHINES) == ["foreign"]
    assert harness.cluster.names(NODES) == ["node-0"]
    await harness.reconcile()


async def test_a_workspace_that_is_gone_is_nobodys_business(harness: Harness) -> None:
    assert await harness.reconcile("nobody") is None
    assert harness.cluster.writes == []


async def test_a_change_makes_a_new_revision_and_rolls_it_out(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    adapters = [{"source": {"name": "a", "image": "r.io/a:1", "imagePullSecrets": ["pull"]}, "strength": "0.5"}]
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": adapters}})
    await harness.reconcile()
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    assert deployment["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
    assert [item["name"] for item in deployment["spec"]["template"]["spec"]["initContainers"]] == ["a"]
    assert harness.workspace()["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
    assert harness.conditions()["InferenceReady"][0] == "False"

    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": None}})
    await harness.reconcile()
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    assert deployment["metadata"]["annotations"]["workspace.kaito.io/revision"] == "1"
    pod = deployment["spec"]["template"]["spec"]
    assert not {"initContainers", "volumes", "imagePullSecrets"} & set(pod)
    assert not {"env", "volumeMounts"} & set(pod["containers"][0])
    assert len(harness.cluster.names(CONTROLLER_REVISIONS)) == 2


async def test_no_more_than_ten_revisions_are_kept(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    for number in range(12):
        harness.cluster.edit(WORKSPACES, "w", {"resource": {"preferredNodes": [f"node-{number}"]}})
        await harness.reconcile()
    names = harness.cluster.names(CONTROLLER_REVISIONS)
    numbers = sorted(harness.cluster.read(CONTROLLER_REVISIONS, name)["revision"] for name in names)
    assert numbers == list(range(4, 14))


async def test_the_current_revision_outlives_newer_ones(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    (current,) = harness.cluster.names(CONTROLLER_REVISIONS)
    revision = harness.cluster.read(CONTROLLER_REVISIONS, current)
    for number in range(2, 14):
        metadata = {**revision["metadata"], "name": f"w-{number}", "uid": f"revision-{number}"}
        metadata["annotations"] = {"workspace.kaito.io/hash": f"hash-{number}"}
        harness.cluster.put(CONTROLLER_REVISIONS, {**revision, "metadata": metadata, "revision": number})
    await harness.reconcile()
    assert current in harness.cluster.names(CONTROLLER_REVISIONS)
    assert len(harness.cluster.names(CONTROLLER_REVISIONS)) == 10


async def test_revisions_of_an_earlier_workspace_are_not_taken_over(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    (name,) = harness.cluster.names(CONTROLLER_REVISIONS)
    owner = {"kind": "Workspace", "name": "w", "uid": "old", "controller": True, "apiVersion": "kaito.sh/v1alpha1"}
    harness.cluster.edit(CONTROLLER_REVISIONS, name, {"metadata": {"ownerReferences": [owner]}, "revision": 7})
    result = await harness.reconcile()
    assert result is not None
    assert result.requeue_after == pytest.approx(2.0)
    assert "earlier ControllerRevision" in harness.message("WorkspaceSucceeded")
    harness.cluster.remove(CONTROLLER_REVISIONS, name)
    await harness.reconcile()
    assert harness.cluster.read(CONTROLLER_REVISIONS, name)["revision"] == 1


async def test_a_template_is_run_as_it_is_and_replaced_when_it_changes(harness: Harness, phi3: dict[str, Any]) -> None:
    template = {
        "spec": {"containers": [{"name": "web", "image": "nginx:1", "resources": {"limits": {"cpu": "1000m"}}}]}
    }
    phi3["inference"] = {"template": template}
    await harness.bring_up(phi3)
    assert harness.cluster.names(SERVICES) == ["w"]
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    assert deployment["spec"]["template"]["metadata"]["labels"] == {"kaito.sh/workspace": "w"}
    deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"
    harness.cluster.put(DEPLOYMENTS, deployment)
    harness.cluster.writes.clear()
    await harness.reconcile()
    assert harness.cluster.writes == []

    container = {"name": "web", "image": "nginx:2"}
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"template": {"spec": {"containers": [container]}}}})
    await harness.reconcile()
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    assert deployment["spec"]["template"]["spec"]["containers"] == [container]
    assert deployment["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
