"""An emulator that is quick, and plain HTTP requests to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from kaito.devcluster.arm import ArmEmulator, ArmOptions, Pool, Site

SITE = Site(subscription="sub", resource_group="rg", cluster="aks")
POOLS = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/aks/agentPools"
BODY: dict[str, Any] = {"properties": {"vmSize": "Standard_NC6s_v3", "count": 1}}


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


class Arm:
    """Raw requests, as a client with a token makes them."""

    def __init__(self, emulator: ArmEmulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self._session = session
        self.headers = {"Authorization": "Bearer token"}

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        version: str = "2024-01-01",
    ) -> Answer:
        url = path if path.startswith("http") else self.emulator.url + path
        params = {} if not version or "api-version" in url else {"api-version": version}
        sent = {**self.headers, **(headers or {})}
        async with self._session.request(method, url, json=body, params=params, headers=sent) as response:
            text = await response.text()
            return Answer(response.status, response.headers, await response.json() if text else None)

    async def put(self, name: str, body: Any = BODY, **headers: str) -> Answer:
        return await self.call(
            "PUT", f"{POOLS}/{name}", body, {key.replace("_", "-"): value for key, value in headers.items()}
        )

    async def get(self, name: str = "") -> Answer:
        return await self.call("GET", f"{POOLS}/{name}" if name else POOLS)

    async def delete(self, name: str, **headers: str) -> Answer:
        return await self.call(
            "DELETE", f"{POOLS}/{name}", None, {key.replace("_", "-"): value for key, value in headers.items()}
        )


class Hooks:
    """What the emulator has told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    async def ready(self, pool: Pool) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(("ready", pool.name))

    async def gone(self, pool: Pool) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(("gone", pool.name))


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def arm_options() -> ArmOptions:
    """Override to start the emulator differently."""
    return ArmOptions(site=SITE, create_seconds=0.0, delete_seconds=0.0, page_size=2)


@pytest.fixture
async def arm(arm_options: ArmOptions, hooks: Hooks) -> AsyncIterator[Arm]:
    async with (
        ArmEmulator(arm_options, on_pool_ready=hooks.ready, on_pool_gone=hooks.gone) as emulator,
        aiohttp.ClientSession() as session,
    ):
        yield Arm(emulator, session)
