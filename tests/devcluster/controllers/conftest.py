"""A cluster in which workloads live, for component tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest

from devcluster.living import Living
from kaito.devcluster.cluster import ClusterOptions, Controllers, LocalCluster
from kaito.runtime import NAMESPACES, Client, Rest, RestConfig, RuntimeMetrics

SPEED = 10.0
"""How many times faster than a user's cluster."""


@pytest.fixture
async def config(external_config: RestConfig | None) -> AsyncIterator[RestConfig]:
    """A cluster whose controllers run: the local one, or ours beside a real API server."""
    if external_config is not None:
        controllers = Controllers(external_config, ClusterOptions(speed=SPEED))
        await controllers.start()
        try:
            yield external_config
        finally:
            await controllers.stop()
        return
    async with LocalCluster(ClusterOptions(speed=SPEED)) as cluster:
        yield cluster.config


@pytest.fixture
async def living(config: RestConfig) -> AsyncIterator[Living]:
    rest = Rest(config, RuntimeMetrics())
    try:
        client = Client(rest)
        name = f"test-{secrets.token_hex(4)}"
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield Living(client, name)
        await client.delete(NAMESPACES, name)
    finally:
        await rest.aclose()
