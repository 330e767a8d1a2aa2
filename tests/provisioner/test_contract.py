"""What every provider promises, whatever its cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from kaito.devcluster.arm import ArmEmulator
from kaito.provisioner import (
    CloudProvider,
    Instance,
    InstanceBusy,
    InstanceNotFound,
    InstanceSpec,
    InstanceState,
    NotOwned,
    load_provider,
)
from kaito.runtime import FencedError
from support.waiting import eventually

SPEC = InstanceSpec(name="ws1", owner="uid-1", vm_sizes=("Standard_NC6s_v3",), os_sku="Ubuntu")


class Leave:
    """Whether the provider may write."""

    given = True

    def check(self) -> None:
        if not self.given:
            raise FencedError("not now")


@pytest.fixture
def leave() -> Leave:
    return Leave()


@pytest.fixture(params=["aks", "simulated"])
async def provider(request: pytest.FixtureRequest, arm: ArmEmulator, leave: Leave) -> AsyncIterator[CloudProvider]:
    environ = {
        "AZURE_RESOURCE_MANAGER_ENDPOINT": arm.url,
        "ARM_EMULATOR_TOKEN": "secret",
        "ARM_SUBSCRIPTION_ID": "sub",
        "ARM_RESOURCE_GROUP": "rg",
        "AZURE_CLUSTER_NAME": "aks",
    }
    made = load_provider(request.param, environ, leave.check)
    assert made.name == request.param
    yield made
    await made.aclose()


async def running(provider: CloudProvider) -> Instance:
    async def probe() -> Instance | None:
        found = await provider.get(SPEC.name)
        return found if found.state is InstanceState.RUNNING else None

    found = await eventually(probe)
    assert found is not None
    return found


async def test_an_instance_comes_and_goes(provider: CloudProvider) -> None:
    with pytest.raises(InstanceNotFound):
        await provider.get(SPEC.name)
    made = await provider.create(SPEC)
    assert (made.name, made.owner, made.vm_size) == ("ws1", "uid-1", "Standard_NC6s_v3")
    found = await running(provider)
    assert [each.name for each in await provider.list()] == ["ws1"]
    await provider.delete(found)

    async def gone() -> bool:
        return not await provider.list()

    await eventually(gone)
    await provider.delete(found)


async def test_creating_again_finds_what_was_made(provider: CloudProvider) -> None:
    await provider.create(SPEC)
    assert (await provider.create(SPEC)).owner == "uid-1"
    assert len(await provider.list()) == 1


async def test_an_instance_of_another_owner_is_never_taken(provider: CloudProvider) -> None:
    await provider.create(SPEC)
    with pytest.raises(NotOwned):
        await provider.create(replace(SPEC, owner="uid-2"))
    with pytest.raises(NotOwned):
        await provider.delete(replace(await running(provider), owner=""))
    assert len(await provider.list()) == 1


async def test_what_has_changed_since_it_was_seen_is_not_deleted(provider: CloudProvider) -> None:
    await provider.create(SPEC)
    found = await running(provider)
    with pytest.raises(InstanceBusy):
        await provider.delete(replace(found, etag="an older version"))
    assert len(await provider.list()) == 1


async def test_writes_need_leave_and_reads_do_not(provider: CloudProvider, leave: Leave) -> None:
    await provider.create(SPEC)
    found = await running(provider)
    leave.given = False
    writes: list[Callable[[], object]] = [
        lambda: provider.create(replace(SPEC, name="ws2", owner="uid-2")),
        lambda: provider.delete(found),
    ]
    for write in writes:
        with pytest.raises(FencedError):
            await write()  # type: ignore[misc]
    assert [each.name for each in await provider.list()] == ["ws1"]


async def test_sizes_are_on_offer(provider: CloudProvider) -> None:
    assert {size.name: size.gpus for size in await provider.instance_types()}["Standard_NC6s_v3"] == 1
