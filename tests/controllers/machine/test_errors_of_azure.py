"""Every class of error of Azure's: what the condition says, whether it is tried again, and when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from controllers.machine.conftest import World
from controllers.machine.test_parts import NOON, Provider, at, context, launched, machine
from kaito.controllers.machine.launch import LaunchStep
from kaito.controllers.machine.termination import InstanceStep
from kaito.controllers.pipeline import Fail, Wait
from kaito.devcluster.arm import ArmOptions, Fault, Plan
from kaito.devcluster.arm.errors import ArmError
from kaito.provisioner import ClusterNotReady, Instance, InstanceNotFound, InstanceState, ProviderError
from kaito.provisioner.aks.classify import AzureError, classify
from support.waiting import eventually

POLL, GROWING, SELDOM = 10.0, 40.0, 300.0
"""Seconds until the next try of a Machine that is 40 s old: what passes by itself, what may pass, what a person must mend."""
UNAVAILABLE = "all requested instance types were unavailable during launch: "


@dataclass(frozen=True)
class Row:
    status: int
    code: str
    message: str
    pause: float
    prefix: str = ""
    retry_after: float | None = None
    """Seconds."""

    @property
    def error(self) -> ProviderError:
        return classify(AzureError(self.code, self.message), self.status, retry_after=self.retry_after)


ROWS = [
    # A missing group or cluster is no missing pool.
    Row(404, "ResourceGroupNotFound", "Resource group 'rg' could not be found.", SELDOM),
    Row(404, "ResourceNotFound", "The Resource 'managedClusters/aks' was not found.", SELDOM),
    Row(404, "SubscriptionNotFound", "The subscription 'sub' could not be found.", SELDOM),
    # Busy.
    Row(409, "OperationNotAllowed", "there's an in progress create node pool operation", POLL),
    Row(409, "OperationNotAllowed", "Another agentpool operation (p - Creating) is in progress", POLL),
    Row(409, "OperationNotAllowed", "Another operation (Updating) is in progress", POLL),
    Row(412, "PreconditionFailed", "The condition specified using HTTP conditional header(s) is not met.", POLL),
    # Sizes that are not offered.
    Row(
        400,
        "BadRequest",
        "The VM size of Standard_NC6s_v3 is not allowed in your subscription in location 'eastus'.",
        SELDOM,
        UNAVAILABLE,
    ),
    Row(400, "VMSizeNotSupported", "The VM size is not supported.", SELDOM, UNAVAILABLE),
    Row(409, "SkuNotAvailable", "The requested size is currently not available.", SELDOM, UNAVAILABLE),
    # Quota: in all its codes and words.
    Row(400, "QuotaExceeded", "too much", SELDOM),
    Row(400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 6, remaining 0", SELDOM),
    Row(400, "InsufficientVCPUQuota", "Insufficient", SELDOM),
    Row(409, "OperationNotAllowed", "resulting in exceeding approved standardNCSv3Family Cores quota", SELDOM),
    Row(403, "OperationNotAllowed", "exceeding approved Total Regional Cores quota", SELDOM),
    Row(409, "OperationNotAllowed", "exceeding approved LowPriorityCores quota", SELDOM),
    Row(409, "Other", "Submit a request for Quota increase at https://aka.ms/x", SELDOM),
    # Capacity.
    Row(409, "AllocationFailed", "We do not have sufficient capacity", GROWING, UNAVAILABLE),
    Row(409, "ZonalAllocationFailed", "We do not have sufficient capacity in this zone", GROWING, UNAVAILABLE),
    Row(409, "OverconstrainedAllocationRequest", "too many constraints", GROWING, UNAVAILABLE),
    Row(409, "OverconstrainedZonalAllocationRequest", "too many constraints", GROWING, UNAVAILABLE),
    Row(409, "SkuNotAvailable", "not available due to Capacity Restrictions", GROWING, UNAVAILABLE),
    # What can never be.
    Row(400, "InvalidParameter", "The value of parameter agentPool.count is invalid.", SELDOM),
    Row(400, "BadRequest", "no", SELDOM),
    Row(400, "VMSizeDoesNotSupportEphemeralOS", "no room for an ephemeral OS disk", SELDOM),
    Row(400, "VMCacheSizeTooSmall", "the cache is too small", SELDOM),
    Row(400, "LinkedInvalidPropertyId", "the subnet id is malformed", SELDOM),
    # Who one is, and what one may.
    Row(401, "InvalidAuthenticationToken", "The access token is invalid.", GROWING),
    Row(401, "ExpiredAuthenticationToken", "The access token expiry is in the past.", GROWING),
    Row(403, "AuthorizationFailed", "The client does not have authorization to perform action", SELDOM),
    Row(403, "RequestDisallowedByPolicy", "Resource 'ws1' was disallowed by policy.", SELDOM),
    # Too many requests.
    Row(429, "TooManyRequests", "slow down", POLL),
    Row(429, "SubscriptionRequestsThrottled", "slow down", 77.0, retry_after=77.0),
    Row(429, "TooManyRequestsReceived", "slow down", POLL, retry_after=1.0),
    Row(429, "OperationThrottled", "slow down", POLL),
    # Azure's own faults.
    Row(500, "InternalServerError", "oops", POLL),
    Row(502, "", "bad gateway", POLL),
    Row(503, "ServiceUnavailable", "later", POLL),
    Row(504, "ServerTimeout", "later", POLL),
    Row(409, "MissingSubscriptionRegistration", "not registered to use Microsoft.ContainerService", SELDOM),
    # What nobody has seen yet.
    Row(409, "SomethingNew", "never seen", GROWING),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.code or 'none'}-{ROWS.index(row)}")
async def test_of_a_launch(row: Row) -> None:
    subject = machine(status=launched("Unknown", "Launching"))
    outcome = await LaunchStep().reconcile(await context(subject, Provider(row.error), at(40)))
    words = f"{row.code}: {row.message}" if row.code else row.message
    if row.error.transient:
        expected: Any = Wait("Launching", f"trying again: {words}", row.pause, "Unknown")
    else:
        expected = Fail("LaunchFailed", f"{row.prefix}{words}", row.pause)
    assert outcome == expected


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.status}-{row.code or 'none'}-{ROWS.index(row)}")
async def test_of_a_deletion(row: Row) -> None:
    running = Instance("ws1", InstanceState.RUNNING, "Succeeded", "Standard_NC6s_v3", "uid-1")
    subject = machine(metadata={"deletionTimestamp": "2024-11-16T12:00:00Z"})
    outcome = await InstanceStep().reconcile(await context(subject, Provider(row.error, running), at(40)))
    assert isinstance(outcome, Wait | Fail)
    assert row.message in outcome.message
    assert isinstance(outcome, Wait) is row.error.transient
    assert outcome.reason == (type(row.error).__name__ if row.error.transient else "TerminationFailed")
    pause = max(POLL, row.retry_after or 0) if not row.error.terminal else SELDOM
    assert outcome.requeue_after == pause


async def test_a_pool_that_is_not_found_is_gone() -> None:
    gone = classify(AzureError("NotFound", "Agent Pool not found"), 404)
    assert isinstance(gone, InstanceNotFound)
    outcome = await InstanceStep().reconcile(await context(machine(), Provider(gone), NOON))
    assert type(outcome).__name__ == "Proceed"


async def test_a_stopped_cluster_is_no_failure() -> None:
    stopped = ClusterNotReady("the cluster aks is Stopped")
    subject = machine(status=launched("Unknown", "Launching"))
    outcome = await LaunchStep().reconcile(await context(subject, Provider(stopped), at(40)))
    assert outcome == Wait("Launching", "trying again: the cluster aks is Stopped", POLL, "Unknown")


@pytest.mark.parametrize("row", [row for row in ROWS if row.prefix], ids=lambda row: row.code)
async def test_of_an_operation_that_fails_with_one_size(row: Row) -> None:
    failed = Instance("ws1", InstanceState.FAILED, "Failed", "Standard_NC6s_v3", "uid-1", error=row.error)
    ctx = await context(machine(status=launched("Unknown", "Launching")), Provider(AssertionError(), failed), at(40))
    ctx.client = Patched()
    outcome = await LaunchStep().reconcile(ctx)
    assert outcome == Fail("LaunchFailed", f"{UNAVAILABLE}{row.code}: {row.message}", 0.0)


class Patched:
    """A client that takes every patch."""

    async def patch(self, *_: Any, **__: Any) -> None:
        return None


# What becomes of them, in the world


SIZES = ["Standard_NC6s_v3", "Standard_NC12s_v3"]
ALLOCATION = ArmError(
    200,
    "ReconcileVMSSAgentPoolFailed",
    "it failed",
    details=[{"code": "AllocationFailed", "message": "We do not have sufficient capacity"}],
)


def wanting(sizes: list[str]) -> dict[str, Any]:
    return {"requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": sizes}]}


async def test_the_next_size_is_tried_when_capacity_turns_out_to_be_missing(world: World) -> None:
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    world.arm.faults.plan(Plan(error=ALLOCATION))
    async with world.running():
        await world.make(**wanting(SIZES))
        note = await world.told("LaunchFailed")
        assert note.endswith("We do not have sufficient capacity; trying Standard_NC12s_v3 next")
        assert UNAVAILABLE not in note
        await world.ready()
    assert world.arm.pools[world.name].properties["vmSize"] == "Standard_NC12s_v3"
    assert (world.count("PUT"), world.count("DELETE")) == (2, 1)


async def test_all_sizes_are_tried_before_the_pause_and_again_after_it(world: World) -> None:
    world.arm.faults.plan(Plan(error=ALLOCATION), count=2)
    async with world.running():
        await world.make(**wanting(SIZES))
        await world.ready()
    tried = [request.body["properties"]["vmSize"] for request in world.arm.requests if request.method == "PUT"]
    assert tried == [*SIZES, SIZES[0]]
    assert "LaunchFailed" in [reason for reason, _ in await world.events()]
    assert (await world.machine()).metadata.annotation("kaito.sh/unavailable-instance-types") is None


async def test_a_restart_remembers_the_sizes_that_were_tried(world: World) -> None:
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    world.arm.faults.plan(Plan(error=ALLOCATION))
    world.arm.faults.add(Fault(method="DELETE", error=ArmError(503, "ServiceUnavailable", "later"), count=-1))
    async with world.running():
        await world.make(**wanting(SIZES))
        await world.told("LaunchFailed")
    world.arm.faults.clear()
    async with world.running():
        await world.ready()
    assert world.arm.pools[world.name].properties["vmSize"] == SIZES[1]


async def test_a_start_of_the_cluster_that_comes_in_between_is_no_failure(world: World) -> None:
    preempted = ArmError(
        200,
        "ResourceOperationFailure",
        "The resource operation completed with terminal provisioning state 'Failed'.",
        details=[
            {"code": "OriginalEtagNotExpect", "message": "This operation has been preempted by Deleting operation."}
        ],
    )
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    world.arm.faults.plan(Plan(error=preempted))
    async with world.running():
        await world.make()
        await world.ready()
    assert (world.count("PUT"), world.count("DELETE")) == (2, 1)
    assert "LaunchFailed" not in [reason for reason, _ in await world.events()]


async def test_a_rejected_token_holds_nothing_up(world: World) -> None:
    world.settings = replace(world.settings, retry_min=3600.0, retry_max=3600.0)
    expired = ArmError(401, "ExpiredAuthenticationToken", "The access token expiry is in the past.")
    world.arm.faults.add(Fault(method="PUT", error=expired))
    async with world.running():
        await world.make()
        await world.ready()
    assert world.count("PUT") == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ArmError(403, "AuthorizationFailed", "The client may not delete agent pools"), "TerminationFailed"),
        (
            ArmError(409, "OperationNotAllowed", "Another operation (Updating) is in progress", flat=True),
            "InstanceBusy",
        ),
        (ArmError(429, "TooManyRequests", "slow down"), "Throttled"),
        (ArmError(500, "InternalServerError", "oops"), "Unavailable"),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
async def test_why_a_deletion_waits_is_said_in_azures_words(world: World, error: ArmError, reason: str) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        world.arm.faults.add(Fault(method="DELETE", error=error, count=-1))
        await world.delete()
        words = await world.becomes("InstanceTerminating", "False", reason)
        assert words == f"{error.code}: {error.message}"
        assert (await world.condition("Ready"))[:2] == ("False", "Terminating")
        assert error.message in (await world.condition("Ready"))[2]
        world.arm.faults.clear()
        await world.gone()


async def test_a_stopped_cluster_keeps_what_there_is(world: World) -> None:
    async with world.running():
        await world.make()
        await world.ready()
        world.arm.cluster.power = "Stopped"
        await world.make("other")
        await world.delete()

        async def said() -> bool:
            return "Stopped" in (await world.condition("InstanceTerminating"))[2]

        await eventually(said)
        assert world.pools == [world.name]
        for pool in world.arm.pools.values():
            pool.become("Succeeded")
        world.arm.cluster.power = "Running"
        await world.gone()

        async def other_is_ready() -> bool:
            return bool((await world.machine("other")).status.node_name)

        await eventually(other_is_ready, deadline=30.0)
        await world.delete("other")
        await world.gone("other")
    assert "LaunchFailed" not in [reason for reason, _ in await world.events()]


class TestStuck:
    @pytest.fixture
    def arm_options(self) -> ArmOptions:
        return ArmOptions(create_seconds=3600.0)

    async def test_a_pool_that_is_still_made_says_so_when_it_is_to_go(self, world: World) -> None:
        async with world.running():
            await world.make()
            await eventually(lambda: world.pools == [world.name])
            await world.delete()
            words = await world.becomes("InstanceTerminating", "False", "InstanceBusy")
            assert "in progress create node pool operation" in words
            world.arm.pools[world.name].become("Succeeded")
            await world.gone()


async def test_a_list_that_fails_is_told_to_those_who_wait_for_it(world: World) -> None:
    broken = ArmError(503, "ServiceUnavailable", "the list is away")
    fault = world.arm.faults.add(Fault(method="LIST", error=broken, count=-1))
    async with world.running():
        await world.make()

        async def said() -> bool:
            status, reason, words = await world.condition("MachineLaunched")
            return (status, reason) == ("Unknown", "Launching") and "the list is away" in words

        await eventually(said)
        assert world.count("PUT") == 0
        world.arm.faults.clear()
        await world.ready()
    assert fault.hits
