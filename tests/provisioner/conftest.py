"""The AKS provider on Azure's own SDK, talking to the emulator over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, Site
from kaito.provisioner.aks.config import AksConfig, EmulatorToken
from kaito.provisioner.aks.provider import AksProvider

SITE = Site(subscription="sub", resource_group="rg", cluster="aks")


async def nothing(pool: Pool) -> None:
    pass


@pytest.fixture
def arm_options() -> ArmOptions:
    """Override to start the emulator differently."""
    return ArmOptions(site=SITE, token="secret", create_seconds=0.0, delete_seconds=0.0, page_size=2)


@pytest.fixture
async def arm(arm_options: ArmOptions) -> AsyncIterator[ArmEmulator]:
    async with ArmEmulator(arm_options, on_pool_ready=nothing, on_pool_gone=nothing) as emulator:
        yield emulator


@pytest.fixture
def config(arm: ArmEmulator) -> AksConfig:
    return AksConfig(
        subscription_id="sub",
        resource_group="rg",
        cluster_name="aks",
        identity=EmulatorToken("secret"),
        endpoint=arm.url,
    )


@pytest.fixture
async def make(config: AksConfig) -> AsyncIterator[Callable[..., AksProvider]]:
    """Makes providers, which are closed in the end."""
    made: list[AksProvider] = []

    def provider(**options: float) -> AksProvider:
        made.append(AksProvider(config, **options))
        return made[-1]

    yield provider
    for each in made:
        await each.aclose()


@pytest.fixture
def aks(make: Callable[..., AksProvider]) -> AksProvider:
    return make()
