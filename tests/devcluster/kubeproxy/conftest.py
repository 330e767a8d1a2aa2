"""A local cluster with a namespace, and pods that listen."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devcluster.living import Living
from kaito.devcluster.cluster import LocalCluster
from kaito.runtime import NAMESPACES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent) and sys.platform != "linux":
            item.add_marker(pytest.mark.skip("Services have addresses of this machine on Linux only"))


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
async def living(cluster: LocalCluster) -> Living:
    client = cluster.controllers.client
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "net"}})
    return Living(client, "net")
