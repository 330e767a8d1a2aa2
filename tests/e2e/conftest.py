"""A local cluster and an operator as processes, and the real kubectl."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import DevCluster, Operator, dev_cluster
from support.kubectl import Kubectl, installed

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(str(item.fspath)).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """One local cluster for all tests of this process that do not break it."""
    with dev_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def installed_cluster(cluster: DevCluster) -> DevCluster:
    """The local cluster with kaito's manifests applied."""
    cluster.install(ROOT / "config" / "overlays" / "local")
    return cluster


@pytest.fixture(scope="session")
def operator(installed_cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator, running under its own service account."""
    with installed_cluster.operator(tmp_path_factory.mktemp("operator")) as operator:
        operator.wait_ready()
        yield operator


@pytest.fixture(params=installed().values(), ids=installed().keys())
def kubectl(request: pytest.FixtureRequest, cluster: DevCluster, tmp_path: Path) -> Iterator[Kubectl]:
    """Each kubectl of this machine in turn, in a namespace of its own."""
    name = f"e2e-{secrets.token_hex(4)}"
    kubectl = Kubectl(request.param, cluster.kubeconfig, tmp_path, name)
    kubectl("create", "namespace", name)
    yield kubectl
    kubectl.run("delete", "namespace", name, "--wait=false")
