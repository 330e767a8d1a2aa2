"""An API server, a client and a namespace for the component tests of the runtime."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.runtime import Client, Rest, RestConfig, RuntimeMetrics
from kaito.runtime.resource import NAMESPACES
from support.controlplane import ControlPlane, external, of_server


@pytest.fixture(scope="session")
def external_config() -> Iterator[RestConfig | None]:
    with external() as config:
        yield config


@pytest.fixture
async def control_plane(external_config: RestConfig | None) -> AsyncIterator[ControlPlane]:
    if external_config is not None:
        yield ControlPlane(external_config)
        return
    async with ApiServer(ApiServerOptions(bookmark_interval=0.2)) as server:
        yield ControlPlane(of_server(server), server)


@pytest.fixture
def emulated(control_plane: ControlPlane) -> ApiServer:
    """The local cluster's API server, for tests that make it misbehave."""
    if control_plane.emulated is None:
        pytest.skip("injects faults into the API server, which a real one cannot do")
    return control_plane.emulated


@pytest.fixture
async def rest(control_plane: ControlPlane) -> AsyncIterator[Rest]:
    rest = Rest(control_plane.config, RuntimeMetrics())
    yield rest
    await rest.aclose()


@pytest.fixture
def client(rest: Rest) -> Client:
    return Client(rest)


@pytest.fixture
async def namespace(client: Client) -> AsyncIterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await client.delete(NAMESPACES, name)
