"""What users run into, one story a test: nodes that are shared, lost or not bought, edits, upgrades, obstacles, tuning."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest

from kaito.api.resources import WORKSPACES
from kaito.controllers.workspace.claims import claim_key
from kaito.controllers.workspace.metrics import PHASES, WorkspaceCensus
from kaito.controllers.workspace.orders import MACHINE_SOURCE, NODE_CLAIM_SOURCE
from kaito.controllers.workspace.settings import Settings, images_of
from kaito.controllers.workspace.upgrades import Upgrades
from kaito.runtime import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Conflict,
    Invalid,
    TerminalError,
)

if TYPE_CHECKING:
    from conftest import Harness

MACHINES = MACHINE_SOURCE.resource
CLAIM = "claim.kaito.sh/default.w"


def named(manifest: dict[str, Any], name: str, **resource: Any) -> dict[str, Any]:
    copy = deepcopy(manifest)
    copy["metadata"]["name"] = name
    copy["resource"] |= resource
    return copy


def claims(harness: Harness, node: str) -> dict[str, str]:
    labels = harness.cluster.read(NODES, node)["metadata"]["labels"]
    return {key: value for key, value in labels.items() if key.startswith("claim.kaito.sh/")}


def workers(harness: Harness, name: str = "w") -> list[str]:
    nodes: list[str] = harness.workspace(name)["status"].get("workerNodes") or []
    return nodes


def set_ready(harness: Harness, node: str, ready: bool) -> None:
    from controllers.workspace.conftest import ready_condition

    condition = ready_condition(ready, harness.clock.moment)
    harness.cluster.edit(NODES, node, {"status": {"conditions": [condition]}})


def put_pod(
    harness: Harness, name: str, node: str, *, workspace: str = "", gpus: int = 0, phase: str = "Running"
) -> None:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    harness.cluster.put(
        PODS,
        {
            "metadata": {"name": name, "labels": {"kaito.sh/workspace": workspace} if workspace else {}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"limits": limits}}]},
            "status": {"phase": phase},
        },
    )


# Nothing is bought in vain


async def test_a_template_that_the_server_would_refuse_costs_no_machine(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"] = {"template": {"spec": {"containers": [{"name": "c", "image": "r.io/c:1", "bogus": 1}]}}}
    harness.apply(phi3)
    harness.cluster.refuse["rehearse", "deployments"] = Invalid("spec.template.spec.containers[0].bogus: unknown field")
    result = await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert result is not None
    assert result.requeue_after == 30.0
    assert "nothing is bought, because the API server would refuse Deployment w: spec.template" in harness.message(
        "MachineReady"
    )
    del harness.cluster.refuse["rehearse", "deployments"]
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1
    rehearsals = len(harness.cluster.rehearsed)
    await harness.reconcile()
    assert len(harness.cluster.rehearsed) == rehearsals, "what has been bought is not rehearsed again"


async def test_a_service_of_somebody_else_costs_no_machine(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.cluster.put(SERVICES, {"metadata": {"name": "w"}, "spec": {"selector": {"app": "mine"}}})
    harness.apply(phi3)
    result = await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert "Service w exists already and belongs to nobody" in harness.message("MachineReady")
    assert result is not None
    assert 0 < (result.requeue_after or 0) <= 30
    harness.cluster.remove(SERVICES, "w")
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"resource": {"instanceType": "Standard_D4s_v3"}},
        {"resource": {"labelSelector": {"matchLabels": {"agentpool": "gpu"}}}},
        {"resource": {"labelSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}}},
        {"inference": {"adapters": [{"source": {"name": "w", "image": "r.io/a:1"}}]}},
        {"resource": {"instanceType": "Standard_NV6"}},
    ],
    ids=["no GPUs", "the cloud's label", "everybody's label", "an adapter named like the Workspace", "too small"],
)
async def test_what_cannot_work_costs_nothing(harness: Harness, phi3: dict[str, Any], change: dict[str, Any]) -> None:
    for part, value in change.items():
        phi3[part] |= value
    harness.apply(phi3)
    with pytest.raises(TerminalError):
        await harness.reconcile()
    assert [write[:2] for write in harness.cluster.writes] == [("patch", "workspaces")]
    assert harness.conditions()["WorkspaceSucceeded"] == ("False", "workspaceFailed")


async def test_preferred_nodes_that_do_not_qualify_are_named_first(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("mine", apps="other")
    harness.apply(named(phi3, "w", preferredNodes=["mine", "nowhere"]))
    result = await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert harness.conditions()["MachineReady"] == ("False", "PreferredNodesNotQualified")
    message = harness.message("MachineReady")
    assert "node mine does not have the labels apps=phi-3; node nowhere does not exist" in message
    assert "PreferredNodesNotQualified" in harness.recorder.reasons
    assert result is not None
    assert result.requeue_after == pytest.approx(300.0, abs=1)
    harness.clock.advance(301)
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1
    assert "node mine does not have the labels" in harness.message("MachineReady")


async def test_a_preferred_node_that_is_mended_is_used(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("mine", apps="other", **{"node.kubernetes.io/instance-type": "Standard_NC12s_v3"})
    harness.apply(named(phi3, "w", preferredNodes=["mine"]))
    await harness.reconcile()
    harness.cluster.edit(NODES, "mine", {"metadata": {"labels": {"apps": "phi-3"}}})
    await harness.reconcile()
    assert workers(harness) == ["mine"]
    assert harness.cluster.names(MACHINES) == []


async def test_a_node_that_is_not_ready_for_a_moment_makes_no_machine(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(phi3)
    await harness.reconcile()
    set_ready(harness, "own", False)
    harness.clock.advance(60)
    result = await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert harness.conditions()["MachineReady"][0] == "Unknown"
    assert result is not None
    assert result.requeue_after == pytest.approx(240, abs=1)
    set_ready(harness, "own", True)
    await harness.reconcile()
    assert workers(harness) == ["own"]
    assert harness.cluster.names(MACHINES) == []


async def test_a_node_that_stays_away_is_replaced_and_what_is_surplus_given_back(
    harness: Harness, phi3: dict[str, Any]
) -> None:
    harness.node("own")
    harness.apply(phi3)
    await harness.reconcile()
    before = harness.cluster.read(DEPLOYMENTS, "w")["spec"]
    set_ready(harness, "own", False)
    harness.clock.advance(301)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    assert claims(harness, "own") == {}
    # It is back before the machine is there: the machine is not needed any more.
    set_ready(harness, "own", True)
    await harness.reconcile()
    assert workers(harness) == ["own"]
    assert harness.cluster.names(MACHINES) == []
    assert "MachineDeleted" in harness.recorder.reasons
    assert harness.cluster.read(DEPLOYMENTS, "w")["spec"] == before, "replacing a node rolls nothing out"
    assert machine


async def test_a_machine_whose_node_is_lost_is_replaced(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    (machine,) = harness.cluster.names(MACHINES)
    uid = harness.cluster.read(MACHINES, machine)["metadata"]["uid"]
    set_ready(harness, "node-0", False)
    harness.clock.advance(301)
    await harness.reconcile()
    (again,) = harness.cluster.names(MACHINES)
    assert harness.cluster.read(MACHINES, again)["metadata"]["uid"] != uid
    harness.machine_delivers(again, "node-9")
    await harness.reconcile()
    assert workers(harness) == ["node-9"]


async def test_workers_are_nodes_that_exist(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.cluster.remove(NODES, "node-0")
    await harness.reconcile()
    assert workers(harness) == []


async def test_a_stuck_deletion_does_not_hold_up_the_replacement_for_ever(
    harness: Harness, phi3: dict[str, Any]
) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    harness.cluster.edit(
        MACHINES,
        machine,
        {"metadata": {"finalizers": ["karpenter.sh/termination"], "deletionTimestamp": "2024-11-16T12:00:00Z"}},
    )
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == [machine]
    harness.clock.advance(301)
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 2


async def test_a_cluster_without_the_kind_says_what_to_install_and_heals(
    harness: Harness, phi3: dict[str, Any]
) -> None:
    harness.has_kind = False
    harness.apply(phi3)
    result = await harness.reconcile()
    assert "does not know the kind Machine (karpenter.sh/v1alpha5): install its definition" in harness.message(
        "WorkspaceSucceeded"
    )
    assert result is not None
    assert result.requeue_after == 30.0
    harness.has_kind = True
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1


async def test_the_advice_at_the_end_of_a_long_message_survives(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    message = "QuotaExceeded: " + "blah " * 400 + "see https://aka.ms/quota"
    condition = {"type": "MachineLaunched", "status": "False", "reason": "LaunchFailed", "message": message}
    harness.cluster.edit(MACHINES, machine, {"status": {"conditions": [condition]}})
    await harness.reconcile()
    told = harness.message("MachineReady")
    assert len(told) <= 512
    assert told.startswith(f"Machine {machine}: LaunchFailed: QuotaExceeded")
    assert told.endswith("see https://aka.ms/quota")
    # The quota was raised.
    harness.machine_delivers(machine, "node-0")
    await harness.reconcile()
    assert harness.conditions()["MachineReady"][0] == "True"


# One truth about nodes


@pytest.mark.parametrize("selector", [{"matchLabels": {"apps": "phi-3"}}, {}], ids=["the same labels", "any node"])
async def test_two_workspaces_with_the_same_selector_run_each_on_its_own(
    harness: Harness, phi3: dict[str, Any], selector: dict[str, Any]
) -> None:
    harness.node("own")
    for name in ("w", "v"):
        harness.apply(named(phi3, name, labelSelector=selector))
        await harness.reconcile(name)
    assert claims(harness, "own") == {CLAIM: "1"}
    (machine,) = harness.cluster.names(MACHINES)
    harness.machine_delivers(machine, "new")
    await harness.reconcile("v")
    await harness.reconcile("w")
    assert (workers(harness, "w"), workers(harness, "v")) == (["own"], ["new"])
    before = harness.workspace("v"), harness.cluster.read(DEPLOYMENTS, "v")
    await harness.cluster.delete(WORKSPACES, "w")
    await harness.reconcile("w")
    assert claims(harness, "own") == {}
    await harness.reconcile("v")
    assert (harness.workspace("v"), harness.cluster.read(DEPLOYMENTS, "v")) == before


async def test_preferred_nodes_edited_later_move_nothing(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("a")
    harness.node("b")
    for name in ("w", "v"):
        harness.apply(named(phi3, name))
        await harness.reconcile(name)
    assert (workers(harness, "w"), workers(harness, "v")) == (["a"], ["b"])
    harness.cluster.edit(WORKSPACES, "w", {"resource": {"preferredNodes": ["b"]}})
    await harness.reconcile("w")
    await harness.reconcile("v")
    assert (workers(harness, "w"), workers(harness, "v")) == (["a"], ["b"])
    assert harness.cluster.names(MACHINES) == []


async def test_two_workspaces_share_a_node_whose_gpus_suffice(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("big", gpus=4)
    container = {"name": "c", "image": "r.io/c:1", "resources": {"limits": {"nvidia.com/gpu": 2}}}
    phi3["inference"] = {"template": {"spec": {"containers": [container]}}}
    for name in ("w", "v", "u"):
        harness.apply(named(phi3, name))
        await harness.reconcile(name)
    assert claims(harness, "big") == {CLAIM: "2", "claim.kaito.sh/default.v": "2"}
    assert "has 0 of 4 GPUs free" not in harness.message("MachineReady", "w")
    assert len(harness.cluster.names(MACHINES)) == 1, "the third has a node of its own"


async def test_gpus_that_other_pods_hold_are_not_counted_on(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(source="byo")
    harness.node("busy")
    put_pod(harness, "foreign", "busy", gpus=1)
    harness.apply(phi3)
    result = await harness.reconcile()
    assert "node busy has 0 of 1 GPUs free, 1 are needed; 1 are held by other pods" in harness.message("ResourceReady")
    assert result is not None
    assert result.requeue_after == 30.0
    harness.cluster.remove(PODS, "foreign")
    await harness.reconcile()
    assert workers(harness) == ["busy"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"unschedulable": True}, "node no is cordoned"),
        (
            {"taints": [{"key": "team", "value": "red", "effect": "NoSchedule"}]},
            "node no has the taint team=red:NoSchedule",
        ),
    ],
)
async def test_a_node_where_no_pod_can_start_does_not_qualify(
    harness: Harness, phi3: dict[str, Any], spec: dict[str, Any], words: str
) -> None:
    harness.settings = Settings(source="byo")
    harness.node("no", spec=spec)
    harness.apply(phi3)
    await harness.reconcile()
    assert workers(harness) == []
    assert words in harness.message("ResourceReady")
    harness.cluster.edit(NODES, "no", {"spec": None})
    await harness.reconcile()
    assert workers(harness) == ["no"]


async def test_a_toleration_of_the_users_own_opens_a_node(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("red", spec={"taints": [{"key": "team", "value": "red", "effect": "NoSchedule"}]})
    pod = {"containers": [{"name": "c", "image": "r.io/c:1"}], "tolerations": [{"key": "team", "operator": "Exists"}]}
    phi3["inference"] = {"template": {"spec": pod}}
    harness.apply(phi3)
    await harness.reconcile()
    assert workers(harness) == ["red"]


async def test_a_claim_that_two_want_at_once_is_given_once(harness: Harness, phi3: dict[str, Any]) -> None:
    """Between the reading and the claiming of a node somebody else has claimed it."""
    harness.node("own")
    harness.apply(phi3)
    harness.apply(named(phi3, "v"))
    patch = harness.cluster.patch

    async def beaten(resource: Any, name: str, body: Any, **options: Any) -> Any:
        if resource == NODES:
            harness.cluster.patch = patch  # type: ignore[method-assign]
            harness.cluster.edit(NODES, "own", {"metadata": {"labels": {"claim.kaito.sh/default.v": "1"}}})
        return await patch(resource, name, body, **options)

    harness.cluster.patch = beaten  # type: ignore[method-assign]
    await harness.reconcile()
    assert claims(harness, "own") == {"claim.kaito.sh/default.v": "1"}
    assert len(harness.cluster.names(MACHINES)) == 1


async def test_claims_of_workspaces_that_are_gone_hold_nothing(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("own", **{"claim.kaito.sh__default.gone": "1"})
    harness.apply(phi3)
    await harness.reconcile()
    assert workers(harness) == ["own"]
    assert claims(harness, "own") == {CLAIM: "1"}


async def test_own_nodes_need_no_machines_and_no_size(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(source="byo")
    labels = {"nvidia.com__gpu.product": "A100", "nvidia.com__gpu.count": "2", "nvidia.com__gpu.memory": "81920"}
    harness.node("dgx", gpus=2, **{"node.kubernetes.io__instance-type": "bare-metal"}, **labels)
    del phi3["resource"]["instanceType"]
    harness.apply(phi3)
    await harness.reconcile()
    container = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    harness.deployment_becomes()
    await harness.reconcile()
    assert harness.conditions() == {
        "ResourceReady": ("True", "workspaceResourceStatusSuccess"),
        "InferenceReady": ("True", "WorkspaceInferenceStatusSuccess"),
        "WorkspaceSucceeded": ("True", "workspaceSucceeded"),
    }
    await harness.cluster.delete(WORKSPACES, "w")
    await harness.reconcile()
    assert harness.cluster.names(WORKSPACES) == []
    assert claims(harness, "dgx") == {}


async def test_own_nodes_that_are_too_small_are_refused_with_the_arithmetic(
    harness: Harness, phi3: dict[str, Any]
) -> None:
    harness.settings = Settings(source="byo")
    labels = {"nvidia.com__gpu.product": "P4", "nvidia.com__gpu.count": "1", "nvidia.com__gpu.memory": "8192"}
    harness.node("small", **labels)
    harness.apply(phi3)
    await harness.reconcile()
    assert "1 x small has 8Gi of GPU memory; preset phi-3-mini-4k-instruct needs 9Gi" in harness.message(
        "ResourceReady"
    )
    assert harness.cluster.names(DEPLOYMENTS) == []
    annotations = {"kaito.sh/bypass-resource-checks": "true"}
    harness.cluster.edit(WORKSPACES, "w", {"metadata": {"annotations": annotations}})
    await harness.reconcile()
    assert harness.cluster.names(DEPLOYMENTS) == ["w"]


async def test_own_nodes_decide_how_many_a_model_needs(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(source="byo", runtime_images=images_of("r.io/kaito-{engine}:1"))
    labels = {"nvidia.com__gpu.product": "A100", "nvidia.com__gpu.count": "1", "nvidia.com__gpu.memory": "81920"}
    harness.node("one", **labels)
    phi3["inference"]["preset"]["name"] = "qwen2.5-coder-32b-instruct"
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.workspace()["status"]["targetNodeCount"] == 2
    assert harness.cluster.names(STATEFUL_SETS) == []
    harness.node("two", **labels)
    await harness.reconcile()
    assert workers(harness) == ["one", "two"]
    assert harness.cluster.read(STATEFUL_SETS, "w")["spec"]["replicas"] == 2


async def test_in_expressions_choose_nodes(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("silver", tier="silver")
    harness.node("gold", tier="gold")
    selector = {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["gold"]}]}
    harness.apply(named(phi3, "w", labelSelector=selector))
    await harness.reconcile()
    assert workers(harness) == ["gold"]


async def test_sizes_are_compared_without_case(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(named(phi3, "w", instanceType="standard_nc6s_V3"))
    await harness.reconcile()
    assert workers(harness) == ["own"]


async def test_node_claims_instead_of_machines(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(source="nodeclaim")
    harness.apply(phi3)
    await harness.reconcile()
    (claim,) = harness.cluster.names(NODE_CLAIM_SOURCE.resource)
    assert harness.conditions()["NodeClaimReady"] == ("Unknown", "CreateNodeClaimPending")
    assert "MachineReady" not in harness.conditions()
    assert harness.cluster.names(MACHINES) == []
    harness.node("n1", **{"kaito.sh__workspace": "w", "kaito.sh__workspacenamespace": "default"})
    conditions = [{"type": type_, "status": "True"} for type_ in ("Launched", "Registered", "Initialized", "Ready")]
    harness.cluster.edit(NODE_CLAIM_SOURCE.resource, claim, {"status": {"conditions": conditions, "nodeName": "n1"}})
    await harness.reconcile()
    assert harness.conditions()["NodeClaimReady"] == ("True", "installNodePluginsSuccess")
    assert workers(harness) == ["n1"]


# Inference


async def test_a_distributed_preset_runs_on_several_nodes(harness: Harness, phi3: dict[str, Any]) -> None:
    private = {"name": "llama-2-13b", "accessMode": "private", "presetOptions": {"image": "r.io/llama:1"}}
    phi3["inference"]["preset"] = private
    phi3["resource"] |= {"count": 2, "instanceType": "Standard_NC6s_v3"}
    harness.apply(phi3)
    await harness.reconcile()
    for index, machine in enumerate(harness.cluster.names(MACHINES)):
        harness.machine_delivers(machine, f"node-{index}")
    await harness.reconcile()
    assert harness.cluster.names(STATEFUL_SETS) == ["w"]
    assert harness.cluster.names(SERVICES) == ["w", "w-headless"]
    harness.cluster.edit(
        STATEFUL_SETS, "w", {"status": {"observedGeneration": 1, "readyReplicas": 2, "updatedReplicas": 2}}
    )
    await harness.reconcile()
    assert harness.conditions()["InferenceReady"][0] == "True"
    assert harness.workspace()["status"]["state"] == "Ready"
    # One of the two was deleted by hand: it comes back by itself.
    harness.cluster.remove(SERVICES, "w-headless")
    await harness.reconcile()
    assert harness.cluster.names(SERVICES) == ["w", "w-headless"]


async def test_a_model_that_needs_more_nodes_gets_them(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(runtime_images=images_of("r.io/kaito-{engine}:1"))
    phi3["inference"]["preset"]["name"] = "qwen2.5-coder-32b-instruct"
    phi3["resource"]["instanceType"] = "Standard_NC24ads_A100_v4"
    harness.apply(phi3)
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 2
    assert harness.workspace()["status"]["targetNodeCount"] == 2


@pytest.mark.parametrize("flag", ["max-model-len", "max_model_len"])
async def test_longer_requests_take_more_nodes(harness: Harness, phi3: dict[str, Any], flag: str) -> None:
    harness.settings = Settings(runtime_images=images_of("r.io/kaito-{engine}:1"))
    phi3["inference"] = {
        "preset": {"name": "llama-3.3-70b-instruct", "presetOptions": {"modelAccessSecret": "hub"}},
        "config": "mine",
    }
    phi3["resource"]["instanceType"] = "Standard_NC24ads_A100_v4"
    data = {"inference_config.yaml": f"vllm: {{{flag}: 131072}}"}
    harness.cluster.put(CONFIG_MAPS, {"metadata": {"name": "mine"}, "data": data})
    harness.apply(phi3)
    await harness.reconcile()
    assert harness.workspace()["status"]["targetNodeCount"] == 6, "three are enough without the configuration"


async def test_another_engine_replaces_the_workload(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.settings = Settings(runtime_images=images_of("r.io/kaito-{engine}:1"))
    await harness.bring_up(phi3)
    harness.cluster.edit(WORKSPACES, "w", {"metadata": {"annotations": {"kaito.sh/runtime": "transformers"}}})
    await harness.reconcile()
    container = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "r.io/kaito-transformers:1"
    assert "livenessProbe" in container
    assert "initialDelaySeconds" not in container["livenessProbe"]


async def test_an_edit_is_put_back_with_a_hint(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "r.io/other:1"
    deployment["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    harness.cluster.put(DEPLOYMENTS, deployment)
    await harness.reconcile()
    template = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]
    assert template["spec"]["containers"][0]["image"].endswith("kaito-phi-3-mini-4k-instruct:0.0.2")
    assert template["metadata"]["annotations"] == {"kubectl.kubernetes.io/restartedAt": "now"}
    (note,) = [note for _, reason, note in harness.recorder.events if reason == "EditUndone"]
    assert "put spec.template.spec.containers[0].image of Deployment w back" in note
    assert "change inference.preset.presetOptions.image" in note


async def test_kubectl_set_image_on_a_template_is_put_back(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"] = {"template": {"spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}}
    await harness.bring_up(phi3)
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:2"
    harness.cluster.put(DEPLOYMENTS, deployment)
    await harness.reconcile()
    container = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "nginx:1"
    (note,) = [note for _, reason, note in harness.recorder.events if reason == "EditUndone"]
    assert "change inference.template instead" in note


async def test_what_a_webhook_always_changes_is_not_fought_over(harness: Harness, phi3: dict[str, Any]) -> None:
    def mirror(resource: Any, manifest: dict[str, Any]) -> None:
        if resource == DEPLOYMENTS:
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                container["image"] = f"mirror.example/{container['image'].removeprefix('mirror.example/')}"

    harness.cluster.mutate = mirror
    harness.upgrades = Upgrades("on-change")
    await harness.bring_up(phi3)
    harness.cluster.writes.clear()
    for _ in range(3):
        await harness.reconcile()
    assert harness.cluster.writes == []


async def test_a_configuration_is_rolled_out(harness: Harness, phi3: dict[str, Any]) -> None:
    phi3["inference"]["config"] = "mine"
    harness.apply(phi3)
    await harness.reconcile()
    assert "there is no ConfigMap mine in the Workspace's namespace" in harness.message("WorkspaceSucceeded")
    assert harness.cluster.names(MACHINES) == []

    def configure(dtype: str) -> None:
        data = {"inference_config.yaml": f"transformers: {{torch_dtype: {dtype}}}"}
        harness.cluster.put(CONFIG_MAPS, {"metadata": {"name": "mine"}, "data": data})

    def command() -> str:
        spec = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]
        return str(spec["containers"][0]["command"][2])

    configure("float16")
    harness.node("own")
    await harness.reconcile()
    assert "--torch_dtype=float16" in command()
    configure("float32")
    await harness.reconcile()
    assert "--torch_dtype=float32" in command()


# Upgrades


def older(harness: Harness) -> None:
    """What runs was made by an operator with another registry."""
    harness.settings = Settings(registry="old.example", upgrades=harness.settings.upgrades)


def image(harness: Harness, name: str = "w") -> str:
    spec = harness.cluster.read(DEPLOYMENTS, name)["spec"]["template"]["spec"]
    return str(spec["containers"][0]["image"])


async def test_a_new_operator_restarts_nothing_and_says_so(harness: Harness, phi3: dict[str, Any]) -> None:
    older(harness)
    await harness.bring_up(phi3)
    before = harness.cluster.read(DEPLOYMENTS, "w")
    harness.settings = Settings()
    harness.upgrades = Upgrades("on-change")
    await harness.reconcile()
    assert harness.cluster.read(DEPLOYMENTS, "w")["spec"] == before["spec"]
    assert "annotate kaito.sh/upgrade to roll that out" in harness.message("InferenceReady")
    assert len(harness.upgrades.outdated) == 1
    # An edit of what runs is put back to what was written, not to what would be written today.
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "r.io/other:1"
    harness.cluster.put(DEPLOYMENTS, deployment)
    await harness.reconcile()
    assert image(harness).startswith("old.example/")


async def test_an_annotation_brings_a_workload_up_to_date(harness: Harness, phi3: dict[str, Any]) -> None:
    older(harness)
    await harness.bring_up(phi3)
    harness.settings = Settings()
    harness.cluster.edit(WORKSPACES, "w", {"metadata": {"annotations": {"kaito.sh/upgrade": "1"}}})
    await harness.reconcile()
    assert image(harness).startswith("mcr.microsoft.com/")


async def test_a_change_of_the_workspace_brings_a_workload_up_to_date(harness: Harness, phi3: dict[str, Any]) -> None:
    older(harness)
    await harness.bring_up(phi3)
    harness.settings = Settings()
    adapter = {"source": {"name": "a", "image": "r.io/a:1"}}
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": [adapter]}})
    await harness.reconcile()
    assert image(harness).startswith("mcr.microsoft.com/")


async def test_never_keeps_the_image_also_of_a_workspace_that_changes(harness: Harness, phi3: dict[str, Any]) -> None:
    older(harness)
    await harness.bring_up(phi3)
    harness.settings = Settings(upgrades="never")
    adapter = {"source": {"name": "a", "image": "r.io/a:1"}}
    harness.cluster.edit(WORKSPACES, "w", {"inference": {"adapters": [adapter]}})
    await harness.reconcile()
    assert image(harness).startswith("old.example/")
    spec = harness.cluster.read(DEPLOYMENTS, "w")["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["initContainers"]] == ["a"]


async def test_rolling_takes_one_workspace_at_a_time(harness: Harness, phi3: dict[str, Any]) -> None:
    older(harness)
    for name in ("w", "v"):
        harness.node(f"own-{name}", apps=name)
        await harness.bring_up(named(phi3, name, labelSelector={"matchLabels": {"apps": name}}), name)
    harness.settings = Settings(upgrades="rolling")
    harness.upgrades = Upgrades("rolling")
    await harness.reconcile("w")
    result = await harness.reconcile("v")
    assert (image(harness, "w")[:3], image(harness, "v")[:3]) == ("mcr", "old")
    assert result is not None
    assert result.requeue_after == 30.0
    # Also a new process lets the one that is under way come up first.
    harness.upgrades = Upgrades("rolling")
    await harness.reconcile("v")
    assert image(harness, "v").startswith("old")
    harness.deployment_becomes("w")
    await harness.reconcile("w")
    await harness.reconcile("v")
    assert image(harness, "v").startswith("mcr")


async def test_a_workload_without_a_record_is_taken_as_it_is(harness: Harness, phi3: dict[str, Any]) -> None:
    """Made by an operator from before there were records."""
    older(harness)
    await harness.bring_up(phi3)
    deployment = harness.cluster.read(DEPLOYMENTS, "w")
    annotations = deployment["metadata"]["annotations"]
    for key in ("workspace.kaito.io/inputs", "workspace.kaito.io/rendered"):
        del annotations[key]
    harness.cluster.put(DEPLOYMENTS, deployment)
    harness.settings = Settings()
    await harness.reconcile()
    assert image(harness).startswith("old.example/")
    assert harness.cluster.read(DEPLOYMENTS, "w")["spec"] == deployment["spec"]


# Tuning


@pytest.fixture
def tuning(phi3: dict[str, Any]) -> dict[str, Any]:
    del phi3["inference"]
    phi3["tuning"] = {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/x"]},
        "output": {"image": "r.io/x:1", "imagePushSecret": "s"},
    }
    return phi3


def job_becomes(harness: Harness, **status: Any) -> None:
    harness.cluster.edit(JOBS, "w", {"status": status})


async def test_tuning_from_apply_to_success(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.apply(tuning)
    await harness.reconcile()
    (machine,) = harness.cluster.names(MACHINES)
    harness.machine_delivers(machine, "node-0")
    await harness.reconcile()
    assert harness.cluster.names(JOBS) == ["w"]
    assert harness.cluster.names(CONFIG_MAPS) == ["w-qlora-params"]
    assert harness.cluster.read(SERVICES, "w")["spec"]["ports"][0] == {
        "name": "http",
        "protocol": "TCP",
        "port": 80,
        "targetPort": 5000,
    }
    assert harness.conditions()["JobStarted"] == ("False", "WorkspaceTuningJobStatusPending")
    job_becomes(harness, active=1, ready=1)
    await harness.reconcile()
    assert harness.conditions()["JobStarted"] == ("True", "WorkspaceTuningJobStatusStarted")
    assert harness.conditions()["WorkspaceSucceeded"] == ("False", "workspacePending")
    assert harness.message("WorkspaceSucceeded") == (
        "workspace has not completed, tuning job has 1 active pod, 1 ready pod"
    )
    assert harness.workspace()["status"]["state"] == "Running"
    job_becomes(harness, active=0, ready=0, succeeded=1)
    await harness.reconcile()
    assert harness.conditions()["WorkspaceSucceeded"] == ("True", "workspaceSucceeded")
    assert harness.workspace()["status"]["state"] == "Succeeded"
    harness.cluster.writes.clear()
    await harness.reconcile()
    assert harness.cluster.writes == []
    # The node of a training that is over is not replaced.
    harness.cluster.remove(NODES, "node-0")
    harness.cluster.remove(MACHINES, machine)
    await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    assert harness.conditions()["WorkspaceSucceeded"][0] == "True"


async def test_a_change_waits_until_the_old_job_is_gone(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(tuning)
    await harness.reconcile()
    harness.cluster.edit(JOBS, "w", {"metadata": {"finalizers": ["foregroundDeletion"]}})
    uid = harness.cluster.read(JOBS, "w")["metadata"]["uid"]
    harness.cluster.edit(WORKSPACES, "w", {"tuning": {"output": {"image": "r.io/x:2"}}})
    await harness.reconcile()
    await harness.reconcile()
    live = harness.cluster.read(JOBS, "w")["metadata"]
    assert (live["uid"], bool(live["deletionTimestamp"])) == (uid, True)
    assert "waiting for an earlier Job w to be deleted" in harness.message("JobStarted")
    harness.cluster.edit(JOBS, "w", {"metadata": {"finalizers": None}})
    await harness.reconcile()
    job = harness.cluster.read(JOBS, "w")
    assert job["metadata"]["annotations"]["workspace.kaito.io/revision"] == "2"
    env = {item["name"]: item["value"] for item in job["spec"]["template"]["spec"]["containers"][1]["env"]}
    assert env["IMAGE"] == "r.io/x:2"


async def test_a_failed_training_says_why_and_is_not_repeated(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.node("own")
    harness.apply(tuning)
    await harness.reconcile()
    job_becomes(harness, failed=1)
    harness.cluster.put(
        PODS,
        {
            "metadata": {"name": "w-abc", "labels": {"kaito.sh/workspace": "w"}},
            "spec": {"nodeName": "own", "containers": []},
            "status": {
                "phase": "Failed",
                "containerStatuses": [{"name": "w", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}],
            },
        },
    )
    await harness.reconcile()
    assert harness.conditions()["JobStarted"] == ("False", "ContainerOOMKilled")
    assert "job w has failed 1 pods: OOMKilled" in harness.message("JobStarted")
    assert harness.workspace()["status"]["state"] == "Failed"
    uid = harness.cluster.read(JOBS, "w")["metadata"]["uid"]
    await harness.reconcile()
    assert harness.cluster.read(JOBS, "w")["metadata"]["uid"] == uid


async def test_a_training_configuration_of_ones_own_is_judged(harness: Harness, tuning: dict[str, Any]) -> None:
    tuning["tuning"]["config"] = "mine"
    body = "training_config: {QuantizationConfig: {load_in_4bit: true}, TrainingArguments: {per_device_train_batch_size: 16}}"
    harness.cluster.put(CONFIG_MAPS, {"metadata": {"name": "mine"}, "data": {"training_config.yaml": body}})
    harness.apply(tuning)
    with pytest.raises(TerminalError, match="16 x 1024 tokens"):
        await harness.reconcile()
    assert harness.cluster.names(MACHINES) == []
    harness.cluster.edit(CONFIG_MAPS, "mine", {"data": {"training_config.yaml": body.replace("16", "1")}})
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1


async def test_a_configuration_of_somebody_else_is_left_alone(harness: Harness, tuning: dict[str, Any]) -> None:
    harness.node("own")
    theirs = {"metadata": {"name": "w-qlora-params"}, "data": {"mine": "yes"}}
    harness.cluster.put(CONFIG_MAPS, theirs)
    harness.apply(tuning)
    result = await harness.reconcile()
    assert "ConfigMap w-qlora-params exists already and belongs to nobody" in harness.message("JobStarted")
    assert harness.cluster.read(CONFIG_MAPS, "w-qlora-params")["data"] == {"mine": "yes"}
    assert result is not None
    assert result.requeue_after == 30.0


# Deletion, adoption


async def test_deletion_says_what_the_cloud_answered(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    (machine,) = harness.cluster.names(MACHINES)
    harness.cluster.edit(MACHINES, machine, {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
    await harness.cluster.delete(WORKSPACES, "w")
    await harness.reconcile()
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "DeleteFailed",
        "message": "ScopeLocked: remove the lock first",
    }
    harness.cluster.edit(MACHINES, machine, {"status": {"conditions": [condition]}})
    await harness.reconcile()
    assert harness.message("WorkspaceDeleting") == (
        f"workspace is being deleted: waiting for Machine {machine} (DeleteFailed: ScopeLocked: remove the lock first)"
    )
    harness.cluster.edit(MACHINES, machine, {"metadata": {"finalizers": None}})
    await harness.reconcile()
    assert harness.cluster.names(WORKSPACES) == []
    assert claims(harness, "node-0") == {}


async def test_what_was_orphaned_is_adopted(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    orphans = (DEPLOYMENTS, SERVICES, CONTROLLER_REVISIONS)
    for resource in orphans:
        for name in harness.cluster.names(resource):
            harness.cluster.edit(resource, name, {"metadata": {"ownerReferences": None}})
    before = harness.cluster.read(DEPLOYMENTS, "w")["spec"]
    harness.cluster.remove(WORKSPACES, "w")
    uid = harness.apply(phi3)["metadata"]["uid"]
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1
    for resource in orphans:
        for name in harness.cluster.names(resource):
            (owner,) = harness.cluster.read(resource, name)["metadata"]["ownerReferences"]
            assert owner["uid"] == uid
    assert harness.cluster.read(DEPLOYMENTS, "w")["spec"] == before
    assert {"DeploymentAdopted", "ServiceAdopted"} <= set(harness.recorder.reasons)


async def test_a_conflict_leaves_everything_as_it_is(harness: Harness, phi3: dict[str, Any]) -> None:
    harness.apply(phi3)
    harness.cluster.refuse["patch", "workspaces"] = Conflict("changed")
    result = await harness.reconcile()
    assert result is not None
    assert result.requeue_after == 0.0, "again, at the pace of the rate limiter"
    assert harness.cluster.names(MACHINES) == []
    harness.cluster.refuse.clear()
    await harness.reconcile()
    assert len(harness.cluster.names(MACHINES)) == 1


# Metrics


async def test_what_is_counted(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.apply(named(phi3, "v", instanceType="Standard_NV6"))
    with pytest.raises(TerminalError):
        await harness.reconcile("v")
    harness.apply(named(phi3, "u"))
    harness.clock.advance(100)
    sizes = ["Standard_NC6s_v3"]
    harness.registry.register(WorkspaceCensus(harness.caches(), Upgrades("on-change"), sizes, harness.clock.now))
    harness.node(
        "theirs", **{"node.kubernetes.io__instance-type": "what somebody wrote", claim_key("default", "x"): "1"}
    )

    def value(name: str, **labels: str) -> float | None:
        return harness.registry.get_sample_value(name, labels)

    phases = {phase: value("kaito_workspace_count", phase=phase) for phase in PHASES}
    assert phases == {"succeeded": 1, "error": 1, "pending": 1, "deleting": 0}
    assert value("kaito_workspace_gpu_nodes", instance_type="Standard_NC6s_v3") == 1
    assert value("kaito_workspace_gpu_nodes", instance_type="other") == 1, "no label is anybody's free text"
    assert 100 <= (value("kaito_workspace_oldest_seconds", phase="pending") or 0) < 200
    assert value("kaito_workspace_oldest_seconds", phase="deleting") == 0
    assert value("kaito_workspace_outdated") == 0
    assert value("kaito_workspace_ready_seconds_count") == 1
    assert value("kaito_workspace_step_seconds_count", condition="MachineReady") == 1


async def test_becoming_ready_again_is_not_becoming_ready(harness: Harness, phi3: dict[str, Any]) -> None:
    await harness.bring_up(phi3)
    harness.deployment_becomes(ready=0)
    await harness.reconcile()
    harness.deployment_becomes(ready=1)
    await harness.reconcile()
    assert harness.registry.get_sample_value("kaito_workspace_ready_seconds_count") == 1
    assert harness.registry.get_sample_value("kaito_workspace_step_seconds_count", {"condition": "InferenceReady"}) == 2
