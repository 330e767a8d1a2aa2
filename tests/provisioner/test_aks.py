"""What the AKS provider does on the wire, and what it makes of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kaito.api.machine import Taint
from kaito.devcluster.arm import ArmEmulator, ArmOptions, Fault, Plan
from kaito.devcluster.arm.errors import ArmError
from kaito.provisioner import (
    AuthorizationFailed,
    CapacityUnavailable,
    Instance,
    InstanceBusy,
    InstanceNotFound,
    InstanceSpec,
    InstanceState,
    InvalidRequest,
    NotOwned,
    ProviderError,
    QuotaExceeded,
    SkuUnavailable,
    Throttled,
    Unavailable,
)
from kaito.provisioner.aks.config import AksConfig
from kaito.provisioner.aks.provider import AksProvider
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


async def test_only_own_pools_are_listed_over_all_pages(aks: AksProvider, arm: ArmEmulator) -> None:
    assert await aks.list() == []
    for name in ("nodepool1", "other"):
        arm.add_pool(name, {"vmSize": "Standard_D4s_v5"})
    for number in range(3):
        await aks.create(replace(SPEC, name=f"ws{number}", owner=f"uid-{number}"))
    arm.requests.clear()
    assert [(instance.name, instance.owner) for instance in await aks.list()] == [
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
        (ArmError(401, "ExpiredAuthenticationToken", "old"), AuthorizationFailed),
        (ArmError(403, "AuthorizationFailed", "no role"), AuthorizationFailed),
        (ArmError(403, "RequestDisallowedByPolicy", "no"), AuthorizationFailed),
        (ArmError(404, "ResourceGroupNotFound", "no group"), InvalidRequest),
        (ArmError(404, "ResourceNotFound", "no cluster"), InvalidRequest),
        (ArmError(404, "SubscriptionNotFound", "no subscription"), InvalidRequest),
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
    with pytest.raises(Throttled) as raised:
        await aks.get(SPEC.name)
    assert raised.value.retry_after == 3600
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


async def test_a_wrong_token(config: AksConfig, arm: ArmEmulator) -> None:
    aks = AksProvider(replace(config, identity=type(config.identity)("wrong")))
    try:
        with pytest.raises(AuthorizationFailed, match="InvalidAuthenticationToken"):
            await aks.get(SPEC.name)
    finally:
        await aks.aclose()
