"""The Machine controller as a user who may do what it needs and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controllers.machine.conftest import World
from kaito.api.resources import MACHINES
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions, User
from kaito.devcluster.arm import Plan
from kaito.runtime import RestConfig, manifest_resource
from kaito.runtime.credentials import StaticToken
from kaito.runtime.resource import NODES
from support.controlplane import of_server

ROLE = Path(__file__).parents[3] / "config" / "rbac" / "role.yaml"
RULES: list[dict[str, Any]] = [
    {"apiGroups": ["karpenter.sh"], "resources": ["machines"], "verbs": ["delete", "list", "patch", "watch"]},
    {"apiGroups": ["karpenter.sh"], "resources": ["machines/status"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete", "list", "patch", "watch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
]
"""Every verb that the controller uses."""


def grants(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
async def config() -> AsyncIterator[RestConfig]:
    async with ApiServer(ApiServerOptions(tokens={"operator": User("operator")})) as server:
        yield of_server(server)


def test_the_role_grants_them() -> None:
    assert grants(RULES) <= grants(yaml.safe_load(ROLE.read_text())["rules"])


async def test_nothing_more_is_needed(world: World) -> None:
    rbac = ("rbac.authorization.k8s.io", "v1")
    role = {"apiVersion": "/".join(rbac), "kind": "ClusterRole", "metadata": {"name": "operator"}, "rules": RULES}
    binding = {
        "apiVersion": "/".join(rbac),
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": rbac[0], "kind": "ClusterRole", "name": "operator"},
        "subjects": [{"apiGroup": rbac[0], "kind": "User", "name": "operator"}],
    }
    await world.client.create(manifest_resource(*rbac, "ClusterRole", "clusterroles", namespaced=False), role)
    await world.client.create(
        manifest_resource(*rbac, "ClusterRoleBinding", "clusterrolebindings", namespaced=False), binding
    )
    world.config = replace(world.config, credentials=StaticToken("operator"))
    world.settings = replace(world.settings, garbage_interval=0.05, registration_ttl=1.0)
    world.arm.faults.plan(Plan(nodes=0))
    async with world.running():
        await world.make()
        await world.told("RegistrationTimeout")
        machine = await world.ready()
        await world.client.delete(NODES, machine.status.node_name or "")
        await world.gone()
        await world.told("Terminated")
        await world.make()
        machine = await world.ready()
        pool = world.arm.drop_pool(world.name)
        await world.client.patch(NODES, pool.node_name(0), {"metadata": {"finalizers": None}})
        await world.client.delete(NODES, pool.node_name(0))
        await world.told("InstanceGone")
        await world.gone()
    assert not await world.client.list(MACHINES)
