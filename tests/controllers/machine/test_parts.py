"""Pure parts of the Machine controller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from controllers.machine.conftest import machine_manifest
from kaito.api.machine import Machine, Taint
from kaito.controllers.machine import nodes, setup
from kaito.controllers.machine.breaker import Breaker
from kaito.controllers.machine.claims import MACHINE, Claim
from kaito.controllers.machine.cloud import Cloud
from kaito.controllers.machine.context import ClaimContext
from kaito.controllers.machine.instance import instance_spec
from kaito.controllers.machine.launch import LaunchStep
from kaito.controllers.machine.metrics import ClaimMetrics, MeteredProvider
from kaito.controllers.machine.settings import Settings
from kaito.controllers.pipeline import Fail, Wait, status_patch
from kaito.provisioner import (
    Instance,
    InstanceNotFound,
    InstanceSpec,
    InstanceState,
    InstanceType,
    InvalidRequest,
    ProviderError,
    QuotaExceeded,
    Throttled,
)
from kaito.runtime import (
    NODES,
    ConfigError,
    Event,
    EventType,
    Fence,
    FencedError,
    Lister,
    Manager,
    RestConfig,
    Stored,
    SystemClock,
)
from kaito.runtime.cache.store import Store

NOON = datetime(2024, 11, 16, 12, tzinfo=UTC)


def machine(**changes: Any) -> Machine:
    manifest = machine_manifest("ws1")
    manifest["metadata"] |= {"uid": "uid-1", "creationTimestamp": "2024-11-16T12:00:00Z"} | changes.pop("metadata", {})
    manifest["spec"] |= changes.pop("spec", {})
    return Machine.model_validate(manifest | changes)


def claim(**changes: Any) -> Claim:
    return Claim(MACHINE, machine(**changes))


def sizes(*names: str) -> dict[str, Any]:
    return {"requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": list(names)}]}


class TestInstanceSpec:
    def test_of_a_workspaces_machine(self) -> None:
        assert instance_spec(claim()) == InstanceSpec(
            name="ws1",
            owner="uid-1",
            vm_sizes=("Standard_NC6s_v3",),
            labels={
                "apps": "phi-3",
                "karpenter.sh/provisioner-name": "default",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "default",
                "kaito.sh/machine-type": "gpu",
                "kaito.sh/creation-timestamp": "2024-11-16T12-00-00Z",
            },
            taints=(Taint(key="sku", value="gpu", effect="NoSchedule"),),
            os_disk_gib=50,
            os_sku="Ubuntu",
            tags={"kaito.sh_workspace": "default/w"},
        )

    def test_sizes_keep_their_order(self) -> None:
        spec = instance_spec(claim(spec=sizes("Standard_D4s_v5", "Standard_NC6s_v3")))
        assert spec.vm_sizes == ("Standard_D4s_v5", "Standard_NC6s_v3")
        assert spec.labels["kaito.sh/machine-type"] == "cpu"

    def test_what_the_last_node_was_like_is_not_asked_of_the_next(self) -> None:
        shown = {"kaito.sh/workspace": "w", "node.kubernetes.io/instance-type": "x", "karpenter.k8s.azure/zone": "1"}
        spec = instance_spec(claim(metadata={"labels": shown}))
        assert not {"node.kubernetes.io/instance-type", "karpenter.k8s.azure/zone"} & spec.labels.keys()
        assert spec.tags == {}

    @pytest.mark.parametrize(("storage", "disk"), [("50Gi", 50), ("100G", 94), ("1", 1), ("0", 0), (None, 0)])
    def test_disks_are_counted_in_whole_gib(self, storage: str | None, disk: int) -> None:
        requests = {} if storage is None else {"storage": storage}
        assert instance_spec(claim(spec={"resources": {"requests": requests}})).os_disk_gib == disk

    def test_what_cannot_be_asked_for(self) -> None:
        with pytest.raises(InvalidRequest, match="no requirement for instance type"):
            instance_spec(
                claim(spec={"requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "Exists"}]})
            )
        with pytest.raises(InvalidRequest, match=r"storage: 'much' is not a quantity"):
            instance_spec(claim(spec={"resources": {"requests": {"storage": "much"}}}))


class Provider:
    """A provider whose instances are given, and which answers every call beyond lists with one thing."""

    name = "fake"

    def __init__(self, answer: Instance | Exception, *known: Instance) -> None:
        self.answer = answer
        self.known = list(known)
        self.calls: list[str] = []

    def _answer(self, call: str) -> Instance:
        self.calls.append(call)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def create(self, spec: InstanceSpec) -> Instance:
        return self._answer("create")

    async def get(self, name: str) -> Instance:
        return self._answer("get")

    async def instance_types(self) -> list[InstanceType]:
        return []

    async def list(self) -> list[Instance]:
        return self.known

    async def delete(self, instance: Instance) -> None:
        self._answer("delete")

    async def aclose(self) -> None:
        """There is nothing to close."""


def raise_index_error(error: Exception) -> None:
    raise error


async def context(subject: Machine, provider: Provider, now: datetime) -> ClaimContext:
    """After the first list of instances."""
    store = Store(NODES, on_index_error=raise_index_error)
    store.add_index(nodes.POOL_INDEX, nodes.pools_of)
    lister: Lister[Any] = Lister(store, lambda: None)
    cloud = Cloud(provider, lambda name: None, interval=1.0, idle_interval=1.0)
    await cloud.refresh()
    return ClaimContext(
        claim=Claim(MACHINE, subject),
        client=None,
        node_lister=lister,
        cloud=cloud,
        breaker=Breaker(list, lister, 0.2),
        settings=Settings(),
        now=now,
        emit=lambda *_: None,
    )


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def launched(status: str, reason: str, since: float = 0.0) -> dict[str, Any]:
    time = at(since).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = {"type": "MachineLaunched", "status": status, "reason": reason, "message": "m", "lastTransitionTime": time}
    return {"conditions": [entry]}


@pytest.mark.parametrize(("tried", "pause"), [(0, 30), (29, 30), (70, 70), (290, 290), (3000, 300)])
async def test_pauses_grow_with_the_time_that_was_tried(tried: float, pause: float) -> None:
    """The Machine was made at noon."""
    subject = machine(status=launched("Unknown", "Launching"))
    failed = await LaunchStep().reconcile(await context(subject, Provider(ProviderError("odd")), at(tried)))
    assert failed == Fail("LaunchFailed", "odd", pause)
    # A new process knows as much.
    subject = machine(status=launched("False", "LaunchFailed", since=tried))
    cloud = Provider(InstanceNotFound("none"))
    waiting = await LaunchStep().reconcile(await context(subject, cloud, at(tried + pause - 10)))
    assert waiting == Fail("LaunchFailed", "m", 10)
    again = await LaunchStep().reconcile(await context(subject, cloud, at(tried + pause)))
    assert isinstance(again, Wait)
    assert (again.reason, again.status, again.requeue_after) == ("Launching", "Unknown", 0.0)
    assert "create" not in cloud.calls


async def test_what_only_a_person_can_mend_is_tried_seldom() -> None:
    subject = machine(status=launched("Unknown", "Launching"))
    failed = await LaunchStep().reconcile(await context(subject, Provider(QuotaExceeded("no", code="Quota")), at(1)))
    assert failed == Fail("LaunchFailed", "Quota: no", 300.0)


async def test_the_cloud_is_left_alone_for_as_long_as_it_asks() -> None:
    for status, reason in (("Unknown", "Launching"), ("False", "LaunchFailed")):
        subject = machine(status=launched(status, reason))
        outcome = await LaunchStep().reconcile(
            await context(subject, Provider(Throttled("slow", retry_after=77.0)), at(1))
        )
        assert isinstance(outcome, Wait | Fail)
        assert (outcome.reason, outcome.requeue_after) == (reason, 77.0)


@pytest.mark.parametrize("state", [InstanceState.RUNNING, InstanceState.CREATING, InstanceState.UPDATING])
async def test_an_instance_that_came_about_in_spite_of_an_error_is_kept(state: InstanceState) -> None:
    known = Instance("ws1", state, state.value, "Standard_NC6s_v3", "uid-1")
    cloud = Provider(AssertionError(), known)
    outcome = await LaunchStep().reconcile(
        await context(machine(status=launched("False", "LaunchFailed")), cloud, at(1))
    )
    assert not isinstance(outcome, Fail)
    assert cloud.calls == []


async def test_one_whose_node_never_came_is_not_kept() -> None:
    known = Instance("ws1", InstanceState.RUNNING, "Succeeded", "Standard_NC6s_v3", "uid-1")
    cloud = Provider(known, known)
    status = launched("False", "RegistrationTimeout")
    assert await LaunchStep().reconcile(await context(machine(status=status), cloud, at(1))) == Fail(
        "RegistrationTimeout", "m", 60.0
    )
    assert cloud.calls == ["delete"]


async def test_nothing_is_asked_of_the_cloud_before_it_is_announced_nor_once_it_runs() -> None:
    cloud = Provider(AssertionError())
    announced = await LaunchStep().reconcile(await context(machine(), cloud, at(0)))
    assert isinstance(announced, Wait)
    assert (announced.reason, announced.status) == ("Launching", "Unknown")
    await LaunchStep().reconcile(await context(machine(status=launched("True", "")), cloud, at(1)))
    assert cloud.calls == []


def test_a_patch_of_status_leaves_nothing_of_old_resources() -> None:
    before = machine(status={"capacity": {"cpu": "4", "nvidia.com/gpu": "1"}, "nodeName": "n"})
    after = before.status.model_copy(update={"capacity": {"cpu": "6"}})
    assert status_patch(before, after) == {
        "metadata": {"uid": "uid-1"},
        "status": {"capacity": {"cpu": "6", "nvidia.com/gpu": None}},
    }
    assert status_patch(before, before.status) is None


def node_event(change: dict[str, Any] | None = None, **status: Any) -> Event[Any]:
    def stored(manifest: dict[str, Any]) -> Stored[Any]:
        return Stored(NODES, NODES.encode({"apiVersion": "v1", "kind": "Node", **manifest}))

    old = {
        "metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}]},
    }
    new = {**old, **(change or {}), "status": {**old["status"], **status}}
    return Event(EventType.UPDATED, old=stored(old), new=stored(new))


def test_heartbeats_of_nodes_do_not_matter() -> None:
    assert not nodes.matters(node_event(conditions=[{"type": "Ready", "status": "True", "lastHeartbeatTime": "2"}]))
    assert nodes.matters(node_event(conditions=[{"type": "Ready", "status": "False"}]))
    assert nodes.matters(node_event(allocatable={"nvidia.com/gpu": "1"}))
    assert nodes.matters(node_event({"metadata": {"name": "n", "deletionTimestamp": "2024-11-16T12:00:00Z"}}))
    assert nodes.matters(node_event({"spec": {"providerID": "x"}}))


async def test_a_process_that_may_no_longer_lead_changes_nothing_in_the_cloud() -> None:
    cloud = Provider(instance := Instance("ws1", InstanceState.RUNNING, "Succeeded", "s", "uid-1"))
    fence = Fence(SystemClock(), lambda: None, valid_until=float("-inf"))
    metered = MeteredProvider(cloud, ClaimMetrics(CollectorRegistry()), fence)
    with pytest.raises(FencedError):
        await metered.delete(instance)
    with pytest.raises(FencedError):
        await metered.create(cast(Any, None))
    assert cloud.calls == []
    assert await metered.get("ws1") == instance


class TestSettings:
    def test_of_the_environment(self) -> None:
        assert Settings.from_environ({}).poll_interval == 10.0
        assert Settings.from_environ({"KAITO_POLL_INTERVAL_SECONDS": "0.5"}).poll_interval == 0.5
        for text in ("0", "-1", "soon", "nan", "inf"):
            with pytest.raises(ConfigError, match="KAITO_POLL_INTERVAL_SECONDS"):
                Settings.from_environ({"KAITO_POLL_INTERVAL_SECONDS": text})

    def test_everything_can_be_said(self) -> None:
        environ = {
            "KAITO_CLAIM_KINDS": "nodeclaim",
            "KAITO_REGISTRATION_TIMEOUT_SECONDS": "60",
            "KAITO_DRAIN_TIMEOUT_SECONDS": "61",
            "KAITO_NODE_GRACE_SECONDS": "62",
            "KAITO_REPAIR_SHARE": "0.5",
            "KAITO_RETRY_MIN_SECONDS": "1",
            "KAITO_RETRY_MAX_SECONDS": "2",
            "KAITO_GARBAGE_INTERVAL_SECONDS": "3",
            "FEATURE_GATES": "Other=true, NodeRepair=false",
        }
        settings = Settings.from_environ(environ)
        assert [kind.name for kind in settings.kinds] == ["nodeclaim"]
        assert (settings.registration_ttl, settings.drain_timeout, settings.node_grace) == (60.0, 61.0, 62.0)
        assert (settings.repair_share, settings.node_repair) == (0.5, False)
        assert (settings.retry_min, settings.retry_max, settings.garbage_interval) == (1.0, 2.0, 3.0)
        assert Settings.from_environ({}) == Settings()

    async def test_set_up_by_name(self) -> None:
        manager = Manager(RestConfig(server="http://127.0.0.1:1"))
        with pytest.raises(ConfigError, match="no cloud provider 'nowhere'"):
            setup(manager, {"KAITO_PROVIDER": "nowhere"})
        with pytest.raises(ConfigError, match="AZURE_CLUSTER_NAME"):
            setup(manager, {"ARM_SUBSCRIPTION_ID": "s"})
        await manager.rest.aclose()
