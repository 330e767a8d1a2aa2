"""What the operator may do is what it does: no verb is missing from its roles, and none is too many.

It runs as service accounts with nothing but the rules below, in one process and in one for each controller, through all that
makes it talk to the API server. What the server has let it do must then be what the rules grant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from controllers.machine.conftest import QUICK, World, clean_up
from kaito.api import labels
from kaito.api.machine import REGISTERED, Machine
from kaito.api.resources import MACHINES, NODE_CLAIMS, WORKSPACES
from kaito.api.workspace import Workspace
from kaito.controllers import machine, workspace
from kaito.controllers.workspace.manifests.order import build_machine, order_name
from kaito.controllers.workspace.manifests.ownership import controller_reference
from kaito.controllers.workspace.manifests.revision import (
    HISTORY_LIMIT,
    build_revision,
    revision_name,
    specification_hash,
)
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Plan
from kaito.provisioner import load_provider
from kaito.runtime import (
    CONFIG_MAPS,
    CONTROLLER_REVISIONS,
    DEPLOYMENTS,
    JOBS,
    NODES,
    SERVICES,
    STATEFUL_SETS,
    Client,
    ElectionConfig,
    Manager,
    ManagerOptions,
    StaticToken,
)
from support.accounts import Rules, service_account
from support.controlplane import ControlPlane
from support.definitions import install
from support.tenant import Tenant
from support.waiting import eventually
from support.witness import Action, Witness

CONFIG = Path(__file__).parents[2] / "config"
GRANTED: dict[str, Rules] = {
    f"{role['kind']} {role['metadata']['name']}": role["rules"]
    for path in sorted((CONFIG / "rbac").glob("*.yaml"))
    if "rules" in (role := yaml.safe_load(path.read_text()))
}
"""The rules of every role in config/rbac."""
OPERATOR, ELECTION = GRANTED["ClusterRole kaito-controller-manager"], GRANTED["Role kaito-leader-election"]
PROTECTION: Action = ("kaito.sh", "workspaces/finalizers", "update")
"""The one permission that no request asks for: with the admission plug-in OwnerReferencesPermissionEnforcement, only who has it
may create an object whose owner reference blocks the deletion of a Workspace."""


def of_overlay(file: str) -> Rules:
    granted: Rules = yaml.safe_load((CONFIG / "overlays" / file).read_text())["rules"]
    return granted


MACHINE = of_overlay("split/machine/role.yaml")
"""What the machine controller needs in a process of its own."""
CLAIMS = ["nodeclaims"]
WORKSPACE = [rule for rule in of_overlay("split/role_patch.yaml") if rule["resources"] != CLAIMS]
"""What the workspace controller needs in a process of its own, where it asks for nodes with Machines."""
CLAIMING: set[Action] = {("karpenter.sh", "nodeclaims", "create"), ("karpenter.sh", "nodeclaims", "get")}
"""What it needs where nodes are asked for with NodeClaims; with them it does what it does here with Machines."""
TOGETHER, APART = {"machine,workspace": OPERATOR}, {"machine": MACHINE, "workspace": WORKSPACE}
"""Processes by the names of their controllers."""


def actions(granted: Rules) -> set[Action]:
    return {
        (group, resource, verb)
        for rule in granted
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def lease(process: str) -> str:
    return "-".join(["kaito", *process.split(",")])


def test_the_role_grants_what_the_controllers_need() -> None:
    assert actions(MACHINE) | actions(WORKSPACE) | CLAIMING == actions(OPERATOR)
    assert not any("resourceNames" in rule for rule in OPERATOR)


def test_asking_for_nodes_takes_the_same_verbs_whatever_the_kind() -> None:
    asking = [rule for rule in of_overlay("split/role_patch.yaml") if rule["apiGroups"] == ["karpenter.sh"]]
    assert [rule["resources"] for rule in asking] == [["machines"], CLAIMS]
    assert asking[0]["verbs"] == asking[1]["verbs"]


def test_with_nodes_of_your_own_the_workspace_controller_needs_all_but_those() -> None:
    of_nodes = {action for action in actions(WORKSPACE) if action[0] == "karpenter.sh"}
    assert actions(of_overlay("byo/role_patch.yaml")) == actions(WORKSPACE) - of_nodes


def test_there_is_no_other_role() -> None:
    """None for reviews of who may read the metrics, either: that comes with ``config/components/metrics-tls``."""
    assert set(GRANTED) == {"ClusterRole kaito-controller-manager", "Role kaito-leader-election"}


def test_the_leases_are_those_of_the_processes() -> None:
    named = {name for rule in ELECTION for name in rule.get("resourceNames", ())}
    assert named == {lease(process) for process in (*TOGETHER, *APART)}


@pytest.mark.parametrize("processes", [TOGETHER, APART], ids=["together", "apart"])
async def test_every_verb_is_used_and_no_other_is_needed(
    processes: dict[str, Rules], control_plane: ControlPlane, client: Client, namespace: str, world: World
) -> None:
    async with operator(processes, control_plane, client, namespace, world) as witnesses:
        tenant = Tenant(client, namespace)
        (witness,) = (witnesses[process] for process in processes if "workspace" in process)
        for resource in (MACHINES, NODE_CLAIMS):
            world.resource = resource
            await claims_come_and_go(world)
        await a_preset_is_served(tenant)
        await a_template_is_run(tenant)
        await a_predecessor_is_succeeded(tenant, witness)
        await a_model_is_spread(tenant, witness)
        await a_model_is_tuned(tenant, witness)
    for process, witness in witnesses.items():
        assert not witness.forbidden
        assert witness.allowed == (actions(processes[process]) | actions(ELECTION)) - {PROTECTION} - CLAIMING, process


@pytest.fixture
async def world(control_plane: ControlPlane, client: Client) -> AsyncIterator[World]:
    await install(client)
    made: World
    arm = ArmEmulator(
        ArmOptions(create_seconds=0.05, delete_seconds=0.05),
        on_pool_ready=lambda pool: made.join(pool),
        on_pool_gone=lambda pool: made.leave(pool),
    )
    made = World(control_plane.config, client, arm)
    made.settings = replace(QUICK, garbage_interval=0.25, drain_timeout=1.0)
    async with arm:
        yield made
        await clean_up(made)


@asynccontextmanager
async def operator(
    processes: Mapping[str, Rules], control_plane: ControlPlane, client: Client, namespace: str, world: World
) -> AsyncIterator[dict[str, Witness]]:
    """A leading manager for each of ``processes``, and who sees what it asks for; anything forbidden ends the block."""
    witnesses: dict[str, Witness] = {}
    async with AsyncExitStack() as stack:
        managers = []
        for process, granted in processes.items():
            account = service_account(client, namespace, lease(process), granted, ELECTION)
            token = await stack.enter_async_context(account)
            witness = witnesses[process] = Witness(control_plane.config)
            await stack.enter_async_context(witness)
            election = ElectionConfig(namespace, lease(process), identity=process)
            options = ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0, election=election)
            manager = Manager(replace(witness.config, credentials=StaticToken(token)), options)
            if "machine" in process:
                machine.add(manager, load_provider("aks", world.environ()), world.settings)
            if "workspace" in process:
                workspace.setup(manager, world.environ() | {"KAITO_RUNTIME_IMAGE": "registry.example/kaito-{engine}:1"})
            managers.append(manager)
        async with asyncio.TaskGroup() as group:
            guards = [group.create_task(witness.refusal()) for witness in witnesses.values()]
            running = [group.create_task(manager.run()) for manager in managers]
            yield witnesses
            for manager in managers:
                manager.stop()
            await asyncio.wait(running)
            for guard in guards:
                guard.cancel()


# What makes the operator talk to the API server


async def claims_come_and_go(world: World) -> None:
    world.name = f"{world.name[:8]}{world.resource.kind[0].lower()}"
    world.arm.faults.plan(Plan(nodes=0), pool=world.name)
    await world.make()
    expected = (REGISTERED, "False") if world.resource is MACHINES else ("Registered", "Unknown")
    await world.becomes(*expected, "NodeNotFound")
    await wait_in_vain(world)
    await world.told("RegistrationTimeout")
    made = await world.ready()
    await world.pod("evicted", made.status.node_name, terminationGracePeriodSeconds=0)
    await world.pod("forced", made.status.node_name)
    await world.client.delete(NODES, made.status.node_name or "")
    await world.gone()
    await world.told("Terminated")
    await world.make()
    await world.ready()
    world.arm.drop_pool(world.name)
    await world.told("InstanceGone")
    await world.gone()


async def wait_in_vain(world: World) -> None:
    """Let the Machine have waited for its Node since long ago, and be looked at again."""
    status = (await world.machine()).status.to_manifest()
    for condition in status["conditions"]:
        condition["lastTransitionTime"] = "2024-01-01T00:00:00Z"
    await world.client.patch(world.resource, world.name, {"status": status}, subresource="status")
    await world.client.patch(world.resource, world.name, {"metadata": {"labels": {"waited": "in-vain"}}})


async def a_preset_is_served(tenant: Tenant) -> None:
    await tenant.apply("phi", {"preset": {"name": "phi-3-mini-4k-instruct"}})
    owned = [await tenant.serves("phi"), await tenant.find(SERVICES, "phi")]
    owned += await tenant.client.list(CONTROLLER_REVISIONS, tenant.namespace, labels={labels.REVISION_OWNER: "phi"})
    assert [obj["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] for obj in owned] == [True] * 3

    await tenant.change(DEPLOYMENTS, "phi", {"spec": {"replicas": 5}})
    await tenant.change(SERVICES, "phi", {"spec": {"publishNotReadyAddresses": False}})

    async def repaired() -> bool:
        deployment, service = await tenant.find(DEPLOYMENTS, "phi"), await tenant.find(SERVICES, "phi")
        return bool(deployment["spec"]["replicas"] == 1 and service["spec"].get("publishNotReadyAddresses"))

    await eventually(repaired)
    await tenant.client.delete(DEPLOYMENTS, "phi", tenant.namespace)
    await eventually(lambda: tenant.find(DEPLOYMENTS, "phi"))

    for number in range(2, HISTORY_LIMIT + 2):
        source = {"name": "tuned", "image": f"registry.example/adapter:{number}"}
        await tenant.change(WORKSPACES, "phi", {"inference": {"adapters": [{"source": source, "strength": "0.5"}]}})

        async def counted(number: int = number) -> bool:
            annotations = (await tenant.find(DEPLOYMENTS, "phi"))["metadata"]["annotations"]
            return bool(annotations[labels.WORKSPACE_REVISION] == str(number))

        await eventually(counted)
    revisions = await tenant.client.list(CONTROLLER_REVISIONS, tenant.namespace)
    assert {revision["revision"] for revision in revisions} == set(range(2, HISTORY_LIMIT + 2))

    (first,) = await tenant.client.list(MACHINES, labels={labels.WORKSPACE: "phi"})
    await tenant.client.delete(MACHINES, first.metadata.name)

    async def replaced() -> bool:
        found = await tenant.find(MACHINES, first.metadata.name)
        return found is not None and found.metadata.uid != first.metadata.uid and bool(found.status.node_name)

    await eventually(replaced)
    await tenant.serves("phi")
    await tenant.delete("phi")


async def a_template_is_run(tenant: Tenant) -> None:
    """On a node that is there already, beside one that does not fit."""
    async with tenant.nodes("own", fits="Standard_NC6s_v3", small="Standard_D2s_v3") as names:
        template = {"spec": {"containers": [{"name": "main", "image": "registry.example/own:1"}]}}
        await tenant.apply("own", {"template": template})
        await tenant.serves("own")
        template["spec"]["containers"][0]["image"] = "registry.example/own:2"
        await tenant.change(WORKSPACES, "own", {"inference": {"template": template}})

        async def updated() -> bool:
            pod = (await tenant.find(DEPLOYMENTS, "own"))["spec"]["template"]["spec"]
            return bool(pod["containers"][0]["image"] == "registry.example/own:2")

        await eventually(updated)
        assert (await tenant.find(WORKSPACES, "own")).status.worker_nodes == (names["fits"],)
        await tenant.delete("own")


async def a_predecessor_is_succeeded(tenant: Tenant, witness: Witness) -> None:
    """It has made everything, and the watches have yet to tell of it."""
    with witness.held("services", "deployments"):
        with witness.held("controllerrevisions", "machines"):
            with witness.held("workspaces"):
                made = await tenant.apply("heir", {"preset": {"name": "phi-3-mini-4k-instruct"}})
                await leave_behind(tenant, made)
            await eventually(lambda: witness.allowed >= {("karpenter.sh", "machines", "get")})
        await tenant.becomes("heir", "ResourceReady")
        await eventually(lambda: witness.allowed >= {("apps", "deployments", "get")})
    await tenant.serves("heir")
    await tenant.delete("heir")


async def leave_behind(tenant: Tenant, owner: Workspace) -> None:
    name, hash_ = owner.metadata.name, specification_hash(owner)
    await tenant.client.create(MACHINES, Machine.model_validate(build_machine(owner, order_name(owner, 0), "50Gi")))
    revision = build_revision(owner, revision_name(owner, hash_), hash_, 1)
    del revision["metadata"]["ownerReferences"]
    await tenant.client.create(CONTROLLER_REVISIONS, revision, namespace=tenant.namespace)
    selector = {labels.WORKSPACE: name}
    pod = {"metadata": {"labels": selector}, "spec": {"containers": [{"name": name, "image": "registry.example/old"}]}}
    specs = {
        SERVICES: {"selector": selector, "ports": [{"name": "http", "port": 80}]},
        DEPLOYMENTS: {"selector": {"matchLabels": selector}, "template": pod},
    }
    for resource, spec in specs.items():
        manifest = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "ownerReferences": [controller_reference(owner)]},
            "spec": spec,
        }
        await tenant.client.create(resource, manifest, namespace=tenant.namespace)


async def a_model_is_spread(tenant: Tenant, witness: Witness) -> None:
    """Over two nodes, one of which has changed unseen, until shorter requests let it fit on one."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "long"},
        "data": {"inference_config.yaml": "vllm: {max-model-len: 10000}"},
    }
    await tenant.client.create(CONFIG_MAPS, config, namespace=tenant.namespace)
    async with tenant.nodes("wide", one="Standard_NC6s_v3", two="Standard_NC6s_v3") as names:

        async def known() -> bool:
            return {*names.values()} <= {node["metadata"]["name"] for node in await tenant.client.list(NODES)}

        await eventually(known)
        await asyncio.sleep(0)
        with witness.held("statefulsets"):
            selector = {labels.WORKSPACE: "wide"}
            pod = {"metadata": {"labels": selector}, "spec": {"containers": [{"name": "w", "image": "r.example/old"}]}}
            spec = {"selector": {"matchLabels": selector}, "serviceName": "wide-headless", "template": pod}
            spec["podManagementPolicy"] = "Parallel"
            orphan = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "wide"}, "spec": spec}
            await tenant.client.create(STATEFUL_SETS, orphan, namespace=tenant.namespace)
            with witness.held("nodes"):
                await tenant.client.patch(NODES, names["one"], {"metadata": {"labels": {"unseen": "true"}}})
                annotations = {labels.RUNTIME: "vllm"}
                inference = {"preset": {"name": "phi-3-mini-128k-instruct"}, "config": "long"}
                await tenant.apply("wide", inference, annotations=annotations)
                await eventually(lambda: witness.allowed >= {("", "nodes", "get")})
            await eventually(lambda: witness.allowed >= {("apps", "statefulsets", "patch")})
        data = {"inference_config.yaml": "vllm: {max-model-len: 2048}"}
        await tenant.change(CONFIG_MAPS, "long", {"data": data})

        async def together() -> bool:
            return await tenant.find(STATEFUL_SETS, "wide") is None and bool(await tenant.find(DEPLOYMENTS, "wide"))

        await eventually(lambda: let_go(tenant, "wide"))
        await eventually(together)
        await eventually(lambda: witness.allowed >= {("", "services", "delete")})
        data = {"inference_config.yaml": "vllm: {max-model-len: 10000}"}
        await tenant.change(CONFIG_MAPS, "long", {"data": data})

        async def apart() -> bool:
            return await tenant.find(DEPLOYMENTS, "wide") is None and bool(await tenant.find(STATEFUL_SETS, "wide"))

        await eventually(lambda: let_go(tenant, "wide"))
        await eventually(apart)
        await tenant.delete("wide")


async def let_go(tenant: Tenant, name: str) -> bool:
    """Do what garbage collection does once nothing depends on an object that is deleted in the foreground."""
    for resource in (STATEFUL_SETS, DEPLOYMENTS, JOBS):
        found = await tenant.find(resource, name)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            await tenant.change(resource, name, {"metadata": {"finalizers": None}})
            return True
    return False


async def a_model_is_tuned(tenant: Tenant, witness: Witness) -> None:
    """By a Job that was there before, and by another one after a change."""
    tuning = {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/data.parquet"]},
        "output": {"image": "registry.example/adapter:1", "imagePushSecret": "push"},
    }
    async with tenant.nodes("tune", one="Standard_NC6s_v3"):
        with witness.held("jobs"):
            pod = {"restartPolicy": "Never", "containers": [{"name": "w", "image": "r.example/old"}]}
            job = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "tune", "labels": {labels.WORKSPACE: "tune"}},
                "spec": {"template": {"spec": pod}},
            }
            await tenant.client.create(JOBS, job, namespace=tenant.namespace)
            await tenant.apply("tune", tuning=tuning)
            await eventually(lambda: witness.allowed >= {("batch", "jobs", "patch"), ("batch", "jobs", "delete")})
        await eventually(lambda: let_go(tenant, "tune"))

        async def anew() -> bool:
            found = await tenant.find(JOBS, "tune")
            return found is not None and labels.WORKSPACE_REVISION in (found["metadata"].get("annotations") or {})

        await eventually(anew)
        await tenant.delete("tune")
