"""An API server in the test's own event loop, and a client that is its administrator."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from devcluster.harness import Kube
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions


@pytest.fixture
def server_options() -> ApiServerOptions:
    """Override to start the server differently."""
    return ApiServerOptions()


@pytest.fixture
async def api_server(server_options: ApiServerOptions) -> AsyncIterator[ApiServer]:
    async with ApiServer(server_options) as server:
        yield server


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    """Requests as the administrator."""
    context = ssl.create_default_context(cadata=api_server.ca_pem.decode())
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Kube(api_server, session, api_server.admin_token)
        yield client
        for watch in client.watches:
            watch.close()
