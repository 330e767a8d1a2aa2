"""What the AKS provider does on the wire, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from kaito.api.machine import Taint
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Fault, Plan
from kaito.devcluster.arm.errors import ArmError
from kaito.provisioner import (
    AuthorizationFailed,
    CapacityUnavailable,
    ClusterNotReady,
    Instance,
    InstanceBusy,
    InstanceNotFound,
    InstanceSpec,
    InstanceState,
    InstanceType,
    InvalidRequest,
    NotOwned,
    ProviderError,
    QuotaExceeded,
    SkuUnavailable,
    Spot,
    Throttled,
    Unavailable,
)
from kaito.provisioner.aks.config import AksConfig
from kaito.provisioner.aks.provider import AksProvider
from kaito.provisioner.aks.sizes import instance_types
from kaito.provisioner.aks.throttle import MAX_PAUSE
from kaito.runtime import FencedError
from support.waiting import eventually

SPEC = InstanceSpec(
    name="ws0123456ab",
    owner="uid-1",
    vm_sizes=("Standard_NC6s_v3",),
    labels={"kaito.sh/workspace": "w", "kaito.sh/creation-timestamp": "2024-11-16T12-00-00Z"},
    taints=(Taint(key="sku", value="gpu", effect="NoSchedule"), Taint(key="bare", effect="NoExecute")),
    os_disk_gib=50,
    tags={"kaito.sh_workspace": "default/w"},
)


async def reached(aks: AksProvider, state: InstanceState, name: str = SPEC.name) -> Instance:
    async def probe() -> Instance | None:
        instance = await aks.get(name)
        return instance if instance.state is state else None

    found = await eventually(probe)
    assert found is not None
    return found


async def gone(aks: AksProvider, name: str = SPEC.name) -> None:
    async def probe() -> bool:
        try:
            await aks.get(name)
        except InstanceNotFound:
            return True
        return False

    await eventually(probe)


async def test_an_instance_comes_and_goes(aks: AksProvider, arm: ArmEmulator) -> None:
    created = await aks.create(SPEC)
    assert (created.name, created.state, created.phase) == (SPEC.name, InstanceState.CREATING, "Creating")
    running = await reached(aks, InstanceState.RUNNING)
    assert (running.vm_size, running.owner) == ("Standard_NC6s_v3", "uid-1")
    assert running.created_at == datetime(2024, 11, 16, 12, tzinfo=UTC)
    assert running.error is None
    await aks.delete(running)
    await gone(aks)
    await aks.delete(running)


async def test_the_request_for_an_agent_pool(aks: AksProvider, arm: ArmEmulator) -> None:
    await aks.create(SPEC)
    (put,) = [request for request in arm.requests if request.method == "PUT"]
    assert put.path.endswith(
        "/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks/agentPools/ws0123456ab"
    )
    assert put.headers["If-None-Match"] == "*"
    assert put.headers["User-Agent"].startswith("kaito ")
    assert put.headers["Authorization"] == "Bearer secret"
    assert put.body == {
        "properties": {
            "count": 1,
            "vmSize": "Standard_NC6s_v3",
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osDiskSizeGB": 50,
            "nodeLabels": {
                "kaito.sh/workspace": "w",
                "kaito.sh/creation-timestamp": "2024-11-16T12-00-00Z",
                "kaito.sh/machine-uid": "uid-1",
            },
            "nodeTaints": ["sku=gpu:NoSchedule", "bare=:NoExecute"],
            "tags": {"kaito.sh_workspace": "default/w", "kaito.sh_machine-uid": "uid-1"},
        }
    }


async def test_labels_that_nodes_get_anyway_are_not_asked_for(aks: AksProvider, arm: ArmEmulator) -> None:
    labels = {"apps": "phi-3", "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "x"}
    await aks.create(replace(SPEC, labels=labels))
    assert arm.pools[SPEC.name].node_labels == {"apps": "phi-3", "kaito.sh/machine-uid": "uid-1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"name": "Ws1"}, "lower-case"), ({"name": "ws01234567890"}, "1 to 12"), ({"os_disk_gib": 2049}, "2048 GiB")],
)
async def test_what_can_never_be_is_not_even_asked_for(
    aks: AksProvider, arm: ArmEmulator, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await aks.create(replace(SPEC, **change))
    assert not arm.requests


async def test_a_name_that_no_pool_can_have_is_not_found(aks: AksProvider, arm: ArmEmulator) -> None:
    with pytest.raises(InstanceNotFound):
        await aks.get("Not-A-Pool")
    assert not arm.requests


async def test_all_pools_are_listed_over_all_pages(aks: AksProvider, arm: ArmEmulator) -> None:
    assert await aks.list() == []
    for name in ("nodepool1", "other"):
        arm.add_pool(name, {"vmSize": "Standard_D4s_v5"})
    for number in range(3):
        await aks.create(replace(SPEC, name=f"ws{number}", owner=f"uid-{number}"))
    arm.requests.clear()
    assert [(instance.name, instance.owner) for instance in await aks.list()] == [
        ("nodepool1", ""),
        ("other", ""),
        ("ws0", "uid-0"),
        ("ws1", "uid-1"),
        ("ws2", "uid-2"),
    ]
    assert [request.method for request in arm.requests] == ["LIST", "LIST", "LIST"]


async def test_the_owner_is_known_by_tag_or_label(aks: AksProvider, arm: ArmEmulator) -> None:
    arm.add_pool("tagged", {"vmSize": "Standard_D4s_v5", "tags": {"kaito.sh_machine-uid": "uid-1"}})
    arm.add_pool("labelled", {"vmSize": "Standard_D4s_v5", "nodeLabels": {"kaito.sh/machine-uid": "uid-2"}})
    assert {instance.name: instance.owner for instance in await aks.list()} == {"tagged": "uid-1", "labelled": "uid-2"}


class TestOwnership:
    async def test_a_pool_of_others_is_neither_changed_nor_deleted(self, aks: AksProvider, arm: ArmEmulator) -> None:
        pool = arm.add_pool(SPEC.name, {"vmSize": "Standard_D4s_v5", "count": 5})
        before = pool.resource()
        with pytest.raises(NotOwned, match="was not made for this Machine"):
            await aks.create(SPEC)
        with pytest.raises(NotOwned):
            await aks.delete(await aks.get(SPEC.name))
        assert pool.resource() == before

    async def test_neither_is_that_of_another_machine(self, aks: AksProvider) -> None:
        await aks.create(replace(SPEC, owner="uid-of-another"))
        with pytest.raises(NotOwned):
            await aks.create(SPEC)

    async def test_what_was_created_before_a_crash_is_found_again(
        self, make: Callable[..., AksProvider], arm: ArmEmulator
    ) -> None:
        # aiohttp sends the request once more by itself where its connection is cut.
        arm.faults.add(Fault(method="PUT", drop="after", count=2))
        with pytest.raises(Unavailable):
            await make().create(SPEC)
        found = await make().create(SPEC)
        assert (found.owner, len(arm.pools)) == ("uid-1", 1)

    async def test_a_pool_that_changed_since_it_was_seen_is_not_deleted(
        self, aks: AksProvider, arm: ArmEmulator
    ) -> None:
        await aks.create(SPEC)
        seen = await reached(aks, InstanceState.RUNNING)
        arm.pools[SPEC.name].become("Succeeded")
        with pytest.raises(InstanceBusy):
            await aks.delete(seen)
        assert arm.pools[SPEC.name].state == "Succeeded"


class TestInProgress:
    @pytest.fixture
    def arm_options(self, arm_options: ArmOptions) -> ArmOptions:
        return replace(arm_options, create_seconds=3600.0, delete_seconds=3600.0)

    async def test_creation_does_not_wait(self, aks: AksProvider) -> None:
        created = await aks.create(SPEC)
        assert created.state is InstanceState.CREATING
        again = await aks.create(SPEC)
        assert again.state is InstanceState.CREATING
        with pytest.raises(InstanceBusy, match="in progress create"):
            await aks.delete(again)

    async def test_deletion_does_not_wait_and_is_not_asked_for_twice(self, aks: AksProvider, arm: ArmEmulator) -> None:
        arm.add_pool(SPEC.name, {"vmSize": "Standard_NC6s_v3", "tags": {"kaito.sh_machine-uid": "uid-1"}})
        await aks.delete(await aks.get(SPEC.name))
        going = await aks.get(SPEC.name)
        assert going.state is InstanceState.DELETING
        await aks.delete(going)
        assert [request.method for request in arm.requests].count("DELETE") == 1


@pytest.mark.parametrize("phase", ["Updating", "Upgrading", "Scaling", "Migrating", "SomethingNew"])
async def test_unknown_states_are_not_failures(aks: AksProvider, arm: ArmEmulator, phase: str) -> None:
    arm.add_pool(SPEC.name, {"vmSize": "Standard_NC6s_v3"}, state=phase)
    instance = await aks.get(SPEC.name)
    assert (instance.state, instance.phase) == (InstanceState.UPDATING, phase)


NOT_ALLOWED = "The VM size of Standard_NC6s_v3 is not allowed in your subscription in location 'eastus'."
QUOTA = "Operation could not be completed as it results in exceeding approved standardNCSv3Family Cores quota."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ArmError(400, "BadRequest", NOT_ALLOWED, flat=True), SkuUnavailable),
        (ArmError(409, "SkuNotAvailable", "not here"), SkuUnavailable),
        (
            ArmError(409, "SkuNotAvailable", "failed for Capacity Restrictions: is currently not available"),
            CapacityUnavailable,
        ),
        (
            ArmError(
                400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 6, remaining 0", flat=True
            ),
            QuotaExceeded,
        ),
        (ArmError(409, "OperationNotAllowed", QUOTA), QuotaExceeded),
        (ArmError(403, "QuotaExceeded", QUOTA), QuotaExceeded),
        (ArmError(409, "OperationNotAllowed", "Another operation (Updating) is in progress", flat=True), InstanceBusy),
        (ArmError(412, "PreconditionFailed", "etag"), InstanceBusy),
        (ArmError(409, "AllocationFailed", "none left"), CapacityUnavailable),
        (ArmError(409, "ZonalAllocationFailed", "none left"), CapacityUnavailable),
        (ArmError(400, "InvalidParameter", "wrong", flat=True), InvalidRequest),
        (ArmError(400, "NoCodeThatWeKnow", "wrong"), InvalidRequest),
        (ArmError(403, "AuthorizationFailed", "no role"), AuthorizationFailed),
        (ArmError(403, "RequestDisallowedByPolicy", "no"), AuthorizationFailed),
        (ArmError(404, "ResourceGroupNotFound", "no group"), InvalidRequest),
        (ArmError(404, "ResourceNotFound", "no cluster"), InvalidRequest),
        (ArmError(404, "SubscriptionNotFound", "no subscription"), InvalidRequest),
        (ArmError(409, "MissingSubscriptionRegistration", "register it"), InvalidRequest),
        (ArmError(400, "VMSizeDoesNotSupportEphemeralOS", "no", flat=True), InvalidRequest),
        (ArmError(400, "VMCacheSizeTooSmall", "no", flat=True), InvalidRequest),
        (ArmError(409, "OverconstrainedZonalAllocationRequest", "none in zone 1"), CapacityUnavailable),
        (ArmError(502, "BadGateway", "oops"), Unavailable),
        (ArmError(504, "GatewayTimeout", "oops"), Unavailable),
        (ArmError(429, "TooManyRequests", "slow down", headers={"Retry-After": "7"}), Throttled),
        (ArmError(429, "SubscriptionRequestsThrottled", "slow down"), Throttled),
        (ArmError(500, "InternalServerError", "oops"), Unavailable),
        (ArmError(503, "ServerTimeout", "oops"), Unavailable),
        (ArmError(409, "SomethingNew", "never seen"), ProviderError),
    ],
)
async def test_errors_have_types_and_keep_their_words(
    aks: AksProvider, arm: ArmEmulator, error: ArmError, kind: type[ProviderError]
) -> None:
    arm.faults.add(Fault(method="PUT", error=error))
    with pytest.raises(ProviderError) as raised:
        await aks.create(SPEC)
    assert type(raised.value) is kind
    assert error.message in str(raised.value)
    assert raised.value.code == error.code
    assert raised.value.retry_after == (7.0 if error.headers else None)
    assert not arm.pools


@pytest.mark.parametrize("method", ["GET", "LIST", "DELETE"])
async def test_a_missing_cluster_is_not_a_missing_pool(config: AksConfig, arm: ArmEmulator, method: str) -> None:
    aks = AksProvider(replace(config, cluster_name="another"))
    instance = Instance(SPEC.name, InstanceState.RUNNING, "Succeeded", "Standard_NC6s_v3", "uid-1")
    try:
        with pytest.raises(InvalidRequest, match="ResourceNotFound"):
            await {"GET": lambda: aks.get(SPEC.name), "LIST": aks.list, "DELETE": lambda: aks.delete(instance)}[
                method
            ]()
    finally:
        await aks.aclose()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            ArmError(
                200,
                "ReconcileVMSSAgentPoolFailed",
                "it failed",
                details=[
                    {
                        "code": "InvalidTemplateDeployment",
                        "message": "see",
                        "details": [{"code": "QuotaExceeded", "message": QUOTA}],
                    }
                ],
            ),
            QuotaExceeded,
            QUOTA,
        ),
        (ArmError(200, "AllocationFailed", "none left"), CapacityUnavailable, "none left"),
        (ArmError(200, "SomethingNew", "never seen"), ProviderError, "SomethingNew: never seen"),
    ],
)
async def test_a_creation_that_failed_says_why(
    aks: AksProvider, arm: ArmEmulator, error: ArmError, kind: type[ProviderError], words: str
) -> None:
    arm.faults.plan(Plan(error=error))
    await aks.create(SPEC)
    failed = await reached(aks, InstanceState.FAILED)
    assert type(failed.error) is kind
    assert words in str(failed.error)
    await aks.delete(failed)
    await gone(aks)


async def test_sizes_are_tried_in_order(aks: AksProvider, arm: ArmEmulator) -> None:
    arm.faults.add(Fault(method="PUT", error=ArmError(400, "BadRequest", NOT_ALLOWED, flat=True)))
    sizes = ("Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3")
    assert (await aks.create(replace(SPEC, vm_sizes=sizes))).vm_size == "Standard_NC12s_v3"


async def test_the_first_refusal_is_told_where_no_size_is_to_be_had(aks: AksProvider, arm: ArmEmulator) -> None:
    with pytest.raises(
        SkuUnavailable, match="Standard_A_First is not allowed in your subscription in location 'eastus'"
    ):
        await aks.create(replace(SPEC, vm_sizes=("Standard_A_First", "Standard_A_Second")))


async def test_a_long_retry_after_does_not_hold_the_caller(aks: AksProvider, arm: ArmEmulator) -> None:
    throttled = ArmError(429, "TooManyRequests", "slow down", headers={"Retry-After": "3600"})
    fault = arm.faults.add(Fault(error=throttled, count=-1))
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(Throttled, match="slow down") as raised:
            await aks.get(SPEC.name)
        raised.value.retry_after = math.ceil(raised.value.retry_after or 0)
    assert raised.value.retry_after == MAX_PAUSE
    assert time.monotonic() - started < 30
    assert fault.hits == 1


async def test_no_answer_is_waited_for_only_so_long(make: Callable[..., AksProvider], arm: ArmEmulator) -> None:
    arm.faults.add(Fault(delay=3600.0, count=-1))
    with pytest.raises(Unavailable, match="did not answer within"):
        await make(call_timeout=0.2).get(SPEC.name)


async def test_nobody_there(make: Callable[..., AksProvider], arm: ArmEmulator) -> None:
    await arm.stop()
    with pytest.raises(Unavailable, match="cannot reach Azure"):
        await make().get(SPEC.name)


async def test_nothing_is_written_without_leave(config: AksConfig, arm: ArmEmulator) -> None:
    leave = True

    def guard() -> None:
        if not leave:
            raise FencedError("the lease is gone")

    aks = AksProvider(config, guard)
    try:
        await aks.create(SPEC)
        running = await reached(aks, InstanceState.RUNNING)
        leave = False
        for write in (aks.create(replace(SPEC, name="other")), aks.delete(running)):
            with pytest.raises(FencedError, match="the lease is gone"):
                await write
        assert (await aks.get(SPEC.name)).state is InstanceState.RUNNING
    finally:
        await aks.aclose()
    assert [request.method for request in arm.requests if request.method in ("PUT", "DELETE")] == ["PUT"]


async def test_every_choice_is_in_the_request(aks: AksProvider, arm: ArmEmulator) -> None:
    chosen = replace(
        SPEC,
        os_disk_gib=1,
        os_disk_type="Ephemeral",
        os_sku="AzureLinux",
        max_pods=30,
        zones=("1", "3"),
        spot=Spot("Deallocate"),
        tags={"team": "ml"},
    )
    await aks.create(chosen)
    (put,) = [request for request in arm.requests if request.method == "PUT"]
    assert put.query == {"api-version": "2026-08-01"}
    properties = put.body["properties"]
    assert {key: properties[key] for key in properties if key not in ("count", "vmSize", "type", "osType", "mode")} == {
        "osDiskSizeGB": 30,
        "osDiskType": "Ephemeral",
        "osSKU": "AzureLinux",
        "maxPods": 30,
        "availabilityZones": ["1", "3"],
        "scaleSetPriority": "Spot",
        "scaleSetEvictionPolicy": "Deallocate",
        "spotMaxPrice": -1.0,
        "nodeLabels": {**SPEC.labels, "kaito.sh/machine-uid": "uid-1"},
        "nodeTaints": ["sku=gpu:NoSchedule", "bare=:NoExecute"],
        "tags": {"team": "ml", "kaito.sh_machine-uid": "uid-1"},
    }
    made = await aks.get(SPEC.name)
    assert (made.os_sku, made.image) == ("AzureLinux", "AKSUbuntu-2204gen2containerd-202411.12.0")


async def test_a_spot_machine_may_have_its_price(aks: AksProvider, arm: ArmEmulator) -> None:
    await aks.create(replace(SPEC, spot=Spot(max_price=0.5)))
    properties = arm.pools[SPEC.name].properties
    assert (properties["scaleSetEvictionPolicy"], properties["spotMaxPrice"]) == ("Delete", 0.5)


class TestStoppedCluster:
    """``az aks stop`` and ``start``."""

    @pytest.fixture
    def aks(self, make: Callable[..., AksProvider]) -> AksProvider:
        return make(cluster_ttl=0.0)

    @pytest.mark.parametrize(
        ("provisioning", "power"),
        [("Stopping", "Running"), ("Succeeded", "Stopped"), ("Starting", "Stopped"), ("Updating", "Running")],
    )
    async def test_nothing_is_created_or_deleted(
        self, aks: AksProvider, arm: ArmEmulator, provisioning: str, power: str
    ) -> None:
        await aks.create(SPEC)
        running = await reached(aks, InstanceState.RUNNING)
        arm.cluster.provisioning, arm.cluster.power = provisioning, power
        arm.requests.clear()
        for write in (aks.create(replace(SPEC, name="other")), aks.delete(running)):
            with pytest.raises(ClusterNotReady, match=f"the cluster aks is {power}.*state {provisioning}") as raised:
                await write
            assert raised.value.transient
        assert {request.method for request in arm.requests} == {"CLUSTER"}
        arm.cluster.provisioning, arm.cluster.power = "Succeeded", "Running"
        await aks.delete(running)
        await gone(aks)

    async def test_a_start_gives_pools_new_etags_which_is_no_failure(self, aks: AksProvider, arm: ArmEmulator) -> None:
        await aks.create(SPEC)
        seen = await reached(aks, InstanceState.RUNNING)
        for power in ("Stopped", "Running"):
            await power_of_cluster(arm, power)
        with pytest.raises(InstanceBusy) as raised:
            await aks.delete(seen)
        assert raised.value.transient
        await aks.delete(await aks.get(SPEC.name))
        await gone(aks)

    async def test_a_refusal_of_the_cluster_between_two_looks(
        self, make: Callable[..., AksProvider], arm: ArmEmulator
    ) -> None:
        aks = make(cluster_ttl=3600.0)
        await aks.create(SPEC)
        await power_of_cluster(arm, "Stopped")
        other = replace(SPEC, name="other")
        with pytest.raises(InstanceBusy, match="is in state Stopped"):
            await aks.create(other)
        with pytest.raises(ClusterNotReady):
            await aks.create(other)


async def power_of_cluster(arm: ArmEmulator, power: str) -> None:
    site, action = arm.options.site, "start" if power == "Running" else "stop"
    path = f"{site.pools_id.rpartition('/')[0]}/{action}?api-version=2024-01-01"
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session,
        session.post(arm.url + path) as answer,
    ):
        assert answer.status == 202
    await eventually(lambda: (arm.cluster.provisioning, arm.cluster.power) == ("Succeeded", power))


async def test_many_calls_ask_once_how_the_cluster_is(aks: AksProvider, arm: ArmEmulator) -> None:
    await asyncio.gather(*(aks.create(replace(SPEC, name=f"ws{number}", owner=f"u{number}")) for number in range(20)))
    assert Counter(request.method for request in arm.requests) == {"CLUSTER": 1, "PUT": 20}


async def test_a_pause_for_writes_is_kept_by_all_writes(aks: AksProvider, arm: ArmEmulator) -> None:
    throttled = ArmError(429, "TooManyRequests", "slow down", headers={"Retry-After": "60"})
    arm.faults.add(Fault(method="PUT", error=throttled))
    for name in ("ws1", "ws2", "ws3"):
        with pytest.raises(Throttled, match="slow down") as raised:
            await aks.create(replace(SPEC, name=name))
        assert 0 < (raised.value.retry_after or 0) <= 60
    assert await aks.list() == []
    assert [request.method for request in arm.requests].count("PUT") == 1


async def test_the_sizes_that_are_offered(aks: AksProvider) -> None:
    offered = {size.name: size for size in await aks.instance_types()}
    assert (offered["Standard_NC6s_v3"].cpus, offered["Standard_NC6s_v3"].gpus) == (6, 1)
    assert offered["Standard_NC6s_v3"].zones == ("1", "2", "3")
    assert offered["Standard_D4s_v5"].gpus == 0


async def test_sizes_that_the_subscription_may_not_use_are_not_offered() -> None:
    page = {
        "value": [
            {"resourceType": "disks", "name": "Premium_LRS"},
            {
                "resourceType": "virtualMachines",
                "name": "Standard_Closed",
                "restrictions": [{"type": "Location", "reasonCode": "NotAvailableForSubscription"}],
            },
            {
                "resourceType": "virtualMachines",
                "name": "Standard_NC24ads_A100_v4",
                "capabilities": [{"name": "vCPUs", "value": "24"}, {"name": "GPUs", "value": "1"}],
                "locationInfo": [{"location": "eastus", "zones": ["1", "2"]}],
                "restrictions": [{"type": "Zone", "restrictionInfo": {"zones": ["1"]}}],
            },
        ]
    }
    assert list(instance_types(page)) == [InstanceType("Standard_NC24ads_A100_v4", 24, 0.0, 1, ("2",))]


async def test_all_who_wait_for_the_clusters_state_share_an_error(aks: AksProvider, arm: ArmEmulator) -> None:
    away = ArmError(503, "ServiceUnavailable", "later")
    fault = arm.faults.add(Fault(method="CLUSTER", error=away, delay=0.1, count=-1))
    specs = [replace(SPEC, name=f"ws{number}", owner=f"u{number}") for number in range(20)]
    outcomes = await asyncio.gather(*map(aks.create, specs), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert fault.hits == 1
    arm.faults.clear()
    await aks.create(SPEC)
