"""Machines and NodeClaims that something else has made: the shapes of the field, each with its own condition style."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.machine.conftest import World, node_claim_manifest
from kaito.api.conditions import NODE_CLAIM_CONDITIONS, find
from kaito.api.nodeclaim import NodeClaim, NodeClaimCondition
from kaito.api.resources import MACHINES, NODE_CLAIMS
from kaito.controllers.machine.claims import MACHINE, NODE_CLAIM, Claim
from kaito.controllers.machine.instance import instance_spec, misunderstood
from kaito.devcluster.arm import ArmOptions, Plan, Pool
from kaito.provisioner import InvalidRequest, Spot
from kaito.runtime import NODES, Invalid, Manifest, Resource, Stored
from support.waiting import eventually

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)
REFERENCE: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1alpha5",
    "kind": "Machine",
    "metadata": {
        "name": "wse6ffb1dd4",
        "labels": {
            "apps": "falcon",
            "karpenter.sh/provisioner-name": "default",
            "kaito.sh/workspace": "workspace-falcon-7b",
            "kaito.sh/workspacenamespace": "kaito",
        },
    },
    "spec": {
        "machineTemplateRef": {"name": "wse6ffb1dd4"},
        "requirements": [
            {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC12s_v3"]},
            {"key": "karpenter.sh/provisioner-name", "operator": "In", "values": ["default"]},
            {"key": "kaito.sh/machine-type", "operator": "In", "values": ["gpu"]},
            {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
            {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
        ],
        "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
        "resources": {"requests": {"storage": "0"}},
    },
}
"""What version 0.2 of the Workspace operator creates."""


def claim(**changes: Any) -> Claim:
    manifest = node_claim_manifest("ws1")
    manifest["metadata"] |= {"uid": "uid-1", "creationTimestamp": "2024-11-16T12:00:00Z"}
    for part in ("labels", "annotations"):
        manifest["metadata"][part] |= changes.pop(part, {})
    manifest["spec"] |= changes.pop("spec", {})
    manifest["spec"]["requirements"] += [
        {"key": key, "operator": "In", "values": list(values)}
        for key, values in changes.pop("requirements", {}).items()
    ]
    return Claim(NODE_CLAIM, NodeClaim.model_validate(manifest | changes))


class TestConditions:
    """Those of NodeClaims are all there from the first write on, and their times move with their status only."""

    def update(self, *found: NodeClaimCondition, old: Any = None, generation: int = 1, minutes: int = 0) -> Any:
        return NODE_CLAIM_CONDITIONS.update(
            old, found, generation=generation, created=NOON, now=NOON + timedelta(minutes=minutes)
        )

    def test_what_is_not_known_yet_is_unknown_since_the_creation(self) -> None:
        launched = NodeClaimCondition(type="Launched", status="Unknown", reason="Launching", message="asking")
        conditions = self.update(launched, minutes=1)
        assert [(entry.type, entry.status, entry.reason) for entry in conditions] == [
            ("Launched", "Unknown", "Launching"),
            ("Registered", "Unknown", "AwaitingReconciliation"),
            ("Initialized", "Unknown", "AwaitingReconciliation"),
            ("Ready", "Unknown", "ReconcilingDependents"),
        ]
        assert {entry.last_transition_time for entry in conditions} == {"2024-11-16T12:00:00Z"}
        assert conditions[-1].message == "Launched=Unknown, Registered=Unknown, Initialized=Unknown"

    def test_ready_is_the_sum(self) -> None:
        held = [NodeClaimCondition(type=name, status="True") for name in ("Launched", "Registered", "Initialized")]
        conditions = self.update(*held, minutes=1)
        assert [(entry.type, entry.status, entry.reason) for entry in conditions][-1] == ("Ready", "True", "Ready")
        lost = NodeClaimCondition(type="Registered", status="False", reason="NodeNotFound", message="gone")
        conditions = self.update(held[0], lost, held[2], old=conditions, minutes=2)
        assert (conditions[-1].status, conditions[-1].reason) == ("False", "UnhealthyDependents")
        assert conditions[-1].message == "Registered=False"
        assert find(conditions, "Launched").last_transition_time == "2024-11-16T12:01:00Z"
        assert [entry.type for entry in conditions] == ["Initialized", "Launched", "Registered", "Ready"] or [
            entry.type for entry in conditions
        ] == ["Launched", "Initialized", "Registered", "Ready"]

    def test_a_new_message_moves_no_time(self) -> None:
        one = NodeClaimCondition(type="Launched", status="False", reason="LaunchFailed", message="no quota")
        conditions = self.update(one, minutes=1)
        conditions = self.update(one.model_copy(update={"message": "no room"}), old=conditions, minutes=9)
        launched = find(conditions, "Launched")
        assert (launched.message, launched.last_transition_time) == ("no room", "2024-11-16T12:01:00Z")

    def test_what_was_found_for_an_older_generation_does_not_make_ready(self) -> None:
        held = [NodeClaimCondition(type=name, status="True") for name in ("Launched", "Registered", "Initialized")]
        conditions = self.update(*held)
        conditions = self.update(*held[:2], old=conditions, generation=2)
        assert (conditions[-1].status, conditions[-1].message) == ("Unknown", "Initialized=True")


class TestInstance:
    def test_of_a_node_claim(self) -> None:
        spec = instance_spec(claim())
        assert (spec.name, spec.owner, spec.vm_sizes, spec.os_disk_gib) == ("ws1", "uid-1", ("Standard_NC6s_v3",), 50)
        assert spec.labels == {
            "karpenter.sh/nodepool": "kaito",
            "kaito.sh/workspace": "w",
            "kaito.sh/workspacenamespace": "default",
            "kaito.sh/machine-type": "gpu",
            "kaito.sh/creation-timestamp": "2024-11-16T12-00-00Z",
        }
        assert (spec.os_sku, spec.spot, spec.zones, spec.max_pods, spec.os_disk_type) == ("Ubuntu", None, (), 0, "")

    @pytest.mark.parametrize(
        ("family", "sku"),
        [("azurelinux", "AzureLinux"), ("AzureLinux", "AzureLinux"), ("UBUNTU", "Ubuntu"), ("Plan9", "Ubuntu")],
    )
    def test_family_of_the_node_image(self, family: str, sku: str) -> None:
        subject = claim(annotations={"kaito.sh/node-image-family": family})
        assert instance_spec(subject).os_sku == sku
        assert bool(misunderstood(subject)) == (family == "Plan9")
        # As a label it says nothing.
        assert instance_spec(claim(labels={"kaito.sh/node-image-family": "azurelinux"})).os_sku == "Ubuntu"

    def test_what_users_ask_for(self) -> None:
        spec = instance_spec(
            claim(
                annotations={
                    "kaito.sh/os-disk-type": "ephemeral",
                    "kaito.sh/spot-eviction-policy": "deallocate",
                    "kaito.sh/spot-max-price": "1.5",
                    "kaito.sh/max-pods": "40",
                    "kaito.sh/tags": "team=ml, cost centre=7",
                },
                requirements={
                    "topology.kubernetes.io/zone": ["eastus-1", "3"],
                    "karpenter.sh/capacity-type": ["spot"],
                },
            )
        )
        assert (spec.os_disk_type, spec.spot, spec.max_pods) == ("Ephemeral", Spot("Deallocate", 1.5), 40)
        assert (spec.zones, spec.tags) == (
            ("1", "3"),
            {"kaito.sh_workspace": "default/w", "team": "ml", "cost centre": "7"},
        )
        assert instance_spec(claim(requirements={"karpenter.sh/capacity-type": ["on-demand"]})).spot is None
        assert instance_spec(claim(requirements={"karpenter.sh/capacity-type": ["spot", "on-demand"]})).spot is None

    @pytest.mark.parametrize(
        ("annotations", "words"),
        [
            ({"kaito.sh/os-disk-type": "floppy"}, "Managed or Ephemeral"),
            ({"kaito.sh/max-pods": "many"}, "number of pods above 0"),
            ({"kaito.sh/tags": "team"}, "name=value"),
        ],
    )
    def test_what_is_not_understood_is_refused(self, annotations: dict[str, str], words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            instance_spec(claim(annotations=annotations))

    @pytest.mark.parametrize("price", ["free", "0", "-1", "nan"])
    def test_prices_that_are_none(self, price: str) -> None:
        subject = claim(
            annotations={"kaito.sh/spot-max-price": price}, requirements={"karpenter.sh/capacity-type": ["spot"]}
        )
        with pytest.raises(InvalidRequest, match="US dollars an hour"):
            instance_spec(subject)

    def test_a_disk_of_nothing(self) -> None:
        """Means the cloud's default; less than nothing means nothing."""
        for nothing in ({}, {"requests": {"storage": "0"}}):
            assert instance_spec(claim(spec={"resources": nothing})).os_disk_gib == 0
        with pytest.raises(InvalidRequest, match=r"storage request of nodeclaim\(ws1\) should be more than 0"):
            instance_spec(claim(spec={"resources": {"requests": {"storage": "-1Gi"}}}))


def stored(resource: Resource[Any], **metadata: Any) -> Stored[Any]:
    manifest = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "n", **metadata}}
    manifest["spec"] = {"nodeClassRef": metadata.pop("ref", None)} if "ref" in metadata else {}
    manifest["metadata"].pop("ref", None)
    return Stored(resource, NODES.encode(manifest))


def test_whose_claims_are_ours() -> None:
    ours, theirs = (
        {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "x"},
        {"group": "a", "kind": "B", "name": "x"},
    )
    assert MACHINE.is_ours(stored(MACHINES, labels={"kaito.sh/ragengine": "r"}))
    assert MACHINE.is_ours(stored(MACHINES, finalizers=["karpenter.sh/termination"]))
    assert not MACHINE.is_ours(stored(MACHINES))
    assert NODE_CLAIM.is_ours(stored(NODE_CLAIMS, ref=ours))
    assert NODE_CLAIM.is_ours(stored(NODE_CLAIMS, ref=theirs, labels={"kaito.sh/workspace": "w"}))
    assert NODE_CLAIM.is_ours(stored(NODE_CLAIMS, ref=theirs, annotations={"kaito.sh/managed": "true"}))
    # The finalizer is that of every provisioner of this API.
    assert not NODE_CLAIM.is_ours(stored(NODE_CLAIMS, ref=theirs, finalizers=["karpenter.sh/termination"]))


async def test_a_machine_of_the_reference_operator(world: World) -> None:
    """It waits for Ready, then reads nodeName."""
    world.name = str(REFERENCE["metadata"]["name"])
    async with world.running():
        await world.client.create(MACHINES, MACHINES.decode(NODES.encode(REFERENCE)))
        machine = await world.ready()
        assert machine.status.node_name == (await world.node())["metadata"]["name"]
        assert world.arm.pools[world.name].properties["osDiskSizeGB"] == 128
        await world.delete()
        await world.gone()


async def test_a_node_claim_from_request_to_end(world: World) -> None:
    world.resource = NODE_CLAIMS
    async with world.running():
        await world.make()
        claim = await world.ready()
        assert {entry.type: (entry.status, entry.reason) for entry in claim.status.conditions} == {
            name: ("True", name) for name in ("Launched", "Registered", "Initialized", "NodeReady", "Ready")
        }
        assert claim.status.conditions[-1].type == "Ready"
        assert {entry.observed_generation for entry in claim.status.conditions} == {claim.metadata.generation}
        assert claim.metadata.finalizers == ("karpenter.sh/termination",)
        labels = claim.metadata.labels
        assert labels["node.kubernetes.io/instance-type"] == "Standard_NC6s_v3"
        assert (labels["karpenter.sh/capacity-type"], labels["topology.kubernetes.io/zone"]) == ("on-demand", "0")
        assert claim.status.image_id == world.arm.pools[world.name].properties["nodeImageVersion"]
        node = await world.node()
        assert (claim.status.node_name, claim.status.provider_id) == (
            node["metadata"]["name"],
            node["spec"]["providerID"],
        )
        owner = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": world.name, "uid": claim.metadata.uid}
        assert node["metadata"]["ownerReferences"] == [owner]
        assert world.count("PUT") == 1
        await world.delete()
        await world.gone()
        await world.told("Terminated")
    assert [reason for reason, _ in await world.events()][:5] == [
        "Launching",
        "Launched",
        "Registered",
        "Initialized",
        "Ready",
    ]


async def test_a_node_claim_that_waits_says_for_what(world: World) -> None:
    world.resource = NODE_CLAIMS
    world.arm.faults.plan(Plan(stuck=True))
    async with world.running():
        await world.make()
        await world.becomes("Launched", "Unknown", "Launching")
        assert await world.condition("Registered") == ("Unknown", "NotLaunched", "NodeClaim is not launched")
        status, reason, message = await world.condition("Ready")
        assert (status, reason) == ("Unknown", "ReconcilingDependents")
        assert message == "Launched=Unknown, Registered=Unknown, Initialized=Unknown"


async def test_a_node_claim_that_has_lost_its_node_is_not_ready(world: World) -> None:
    world.resource = NODE_CLAIMS
    async with world.running():
        await world.make()
        node = (await world.ready()).status.node_name
        await world.client.patch(NODES, node, {"metadata": {"finalizers": None}})
        await world.client.delete(NODES, node)
        await world.becomes("Registered", "False", "NodeNotFound")
        assert (await world.condition("Ready"))[:2] == ("False", "UnhealthyDependents")


async def test_startup_taints_of_a_node_claim_are_put_on_its_node(world: World) -> None:
    def unregistered(node: Manifest) -> None:
        node["spec"]["taints"].append({"key": "karpenter.sh/unregistered", "effect": "NoExecute"})

    world.resource, world.change_node = NODE_CLAIMS, unregistered
    startup = {"key": "example.com/warming", "effect": "NoSchedule"}
    async with world.running():
        await world.make(startupTaints=[startup])
        await world.becomes("Initialized", "Unknown", "StartupTaintsExist")
        assert (await world.condition("Ready"))[:2] == ("Unknown", "ReconcilingDependents")
        node = await world.node()
        taints = node["spec"]["taints"]
        assert [taint["key"] for taint in taints] == ["sku", "example.com/warming"]
        await world.client.patch(NODES, node["metadata"]["name"], {"spec": {"taints": taints[:1]}})
        await world.ready()
        # Once registered, a Node's taints are its own affair.
        assert [taint["key"] for taint in (await world.node())["spec"]["taints"]] == ["sku"]


async def test_node_claims_of_other_provisioners_are_not_touched(world: World) -> None:
    world.resource = NODE_CLAIMS
    foreign = {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"}
    async with world.running():
        await world.make(f"{world.name}x", nodeClassRef=foreign, metadata={"labels": {}})
        before = await world.machine(f"{world.name}x")
        await world.make()
        await world.ready()
        assert (await world.machine(f"{world.name}x")).metadata.resource_version == before.metadata.resource_version
        await world.delete()
        await world.gone()
        await world.delete(f"{world.name}x")
    assert f"{world.name}x" not in {request.path.rsplit("/")[-1] for request in world.arm.requests}


@pytest.mark.parametrize("resource", [MACHINES, NODE_CLAIMS], ids=["machine", "nodeclaim"])
async def test_what_was_taken_on_is_finished_without_its_labels(world: World, resource: Resource[Any]) -> None:
    world.resource = resource
    async with world.running():
        await world.make()
        await world.ready()
    gone = dict.fromkeys(["kaito.sh/workspace", "kaito.sh/workspacenamespace"])
    await world.client.patch(resource, world.name, {"metadata": {"labels": gone}})
    async with world.running():
        await world.delete()
        await world.gone()
    assert world.pools == []


async def test_two_kinds_of_one_name_have_one_instance(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        world.resource = NODE_CLAIMS
        await world.make()
        words = await world.becomes("Launched", "False", "LaunchFailed")
        assert "there is already an instance" in words
        await world.delete()

        async def released() -> bool:
            return not [each for each in await world.client.list(NODE_CLAIMS) if each.metadata.name == world.name]

        await eventually(released)
        world.resource = MACHINES
        assert (await world.condition("Ready"))[0] == "True"
    assert world.count("DELETE") == 0


async def test_the_specification_of_a_node_claim_does_not_change(world: World) -> None:
    world.resource = NODE_CLAIMS
    await world.make()
    with pytest.raises(Invalid, match="immutable"):
        await world.client.patch(NODE_CLAIMS, world.name, {"spec": {"expireAfter": "1h"}})
    for changes in (
        {"requirements": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["x"]}]},
        {"requirements": [{"key": "karpenter.sh/registered", "operator": "Exists"}]},
        {"requirements": [{"key": "a", "operator": "In", "values": []}]},
        {"requirements": [{"key": "a", "operator": "Gt", "values": ["-1"]}]},
        {"requirements": [{"key": "a", "operator": "In", "values": ["x"], "minValues": 2}]},
        {"nodeClassRef": {"group": "", "kind": "A", "name": "b"}},
        {"terminationGracePeriod": "soon"},
    ):
        with pytest.raises(Invalid):
            await world.make("other", **changes)


class TestSpot:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=0.05, delete_seconds=0.05)

    async def test_a_spot_machine_says_so(self, world: World) -> None:
        async with world.running():
            requirements = {
                "node.kubernetes.io/instance-type": ["Standard_NC6s_v3"],
                "karpenter.sh/capacity-type": ["spot"],
            }
            await world.make(
                requirements=[{"key": key, "operator": "In", "values": values} for key, values in requirements.items()]
            )
            machine = await world.ready()
        pool: Pool = world.arm.pools[world.name]
        assert (pool.properties["scaleSetPriority"], pool.properties["scaleSetEvictionPolicy"]) == ("Spot", "Delete")
        assert machine.metadata.label("karpenter.sh/capacity-type") == "spot"
