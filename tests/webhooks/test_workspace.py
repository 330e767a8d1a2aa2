"""Workspaces as the API server shows them to the operator's webhook, from `config/components/webhook`, over HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kaito import webhooks
from kaito.api.defaulting import read_workspace
from kaito.api.resources import WORKSPACES
from kaito.api.validation import Policy, validate, validate_update
from kaito.api.workspace import Workspace
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.models import Catalogue
from kaito.runtime import (
    CONFIG_MAPS,
    ENDPOINTS,
    NAMESPACES,
    SERVICES,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    Client,
    InternalError,
    Invalid,
    Manager,
    ManagerOptions,
    Rest,
    RuntimeMetrics,
    manifest_resource,
)
from support.controlplane import of_server
from support.definitions import install
from support.waiting import eventually

CONFIG = Path(__file__).parents[2] / "config"
OLD = manifest_resource("kaito.sh", "v1alpha1", "Workspace", "workspaces")
CATALOGUE = Catalogue.default()

INFERENCE: dict[str, Any] = {
    "metadata": {"name": "w", "namespace": "default"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi-3"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}


def read(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((CONFIG / "components" / "webhook" / name).read_text())
    return manifest


class World:
    def __init__(self, client: Client, manager: Manager) -> None:
        self.client = client
        self.manager = manager
        self.running: asyncio.Task[None] | None = None

    async def create(self, manifest: dict[str, Any]) -> Workspace:
        return await self.client.create(WORKSPACES, read_workspace(manifest))

    async def stop(self) -> None:
        """The operator is down."""
        self.manager.stop()
        if self.running is not None:
            await self.running


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with ApiServer(ApiServerOptions()) as server:
        config = of_server(server)
        rest = Rest(config, RuntimeMetrics())
        client = Client(rest)
        await install(client)
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kaito-system"}})
        manager = Manager(config, ManagerOptions(metrics_address="0", health_address="0", grace_period=5.0))
        options = webhooks.WebhookOptions("kaito-system", address="127.0.0.1:0")
        served = webhooks.setup(manager, CATALOGUE, Policy(), options)
        # Before the operator runs: it writes its authority into the configuration.
        await client.create(VALIDATING_WEBHOOK_CONFIGURATIONS, read("validating_webhook.yaml"))
        world = World(client, manager)
        world.running = asyncio.create_task(manager.run())
        await eventually(lambda: served.port != 0)
        await client.create(SERVICES, read("service.yaml"))
        subset = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "https", "port": served.port}]}
        metadata = {"name": "kaito-webhook-service", "namespace": "kaito-system"}
        await client.create(
            ENDPOINTS, {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
        )
        yield world
        await world.stop()
        await rest.aclose()


async def test_all_errors_come_at_once_and_name_their_fields(world: World) -> None:
    manifest = {
        **INFERENCE,
        "resource": {"instanceType": "Standard_NV6", "labelSelector": {"matchLabels": {"agentpool": "gpu"}}},
    }
    with pytest.raises(Invalid) as refused:
        await world.create(manifest)
    fields = {cause["field"] for cause in refused.value.details["causes"]}
    assert fields == {"resource.labelSelector", "resource.instanceType"}
    assert 'admission webhook "validation.workspace.kaito.sh" denied the request' in refused.value.message
    assert "has 8Gi of GPU memory; preset phi-3-mini-4k-instruct needs 9Gi" in refused.value.message


async def test_both_versions_are_judged(world: World) -> None:
    old = {**INFERENCE, "apiVersion": "kaito.sh/v1alpha1", "kind": "Workspace"}
    bad = {**old, "resource": {**INFERENCE["resource"], "instanceType": "Standard_NV6"}}
    with pytest.raises(Invalid, match="GPU memory"):
        await world.client.create(OLD, bad)
    await world.client.create(OLD, old)
    assert (await world.client.get(WORKSPACES, "w", "default")).api_version == "kaito.sh/v1beta1"


async def test_an_update_is_judged_and_what_did_not_change_is_not_blamed(world: World) -> None:
    await world.create(INFERENCE)
    with pytest.raises(Invalid, match="cannot be changed"):
        await world.client.patch(WORKSPACES, "w", {"resource": {"count": 2}}, namespace="default")
    adapters = [{"source": {"name": "w", "image": "r.io/a:1"}}]
    with pytest.raises(Invalid, match="choose another name"):
        await world.client.patch(WORKSPACES, "w", {"inference": {"adapters": adapters}}, namespace="default")
    await world.client.patch(WORKSPACES, "w", {"metadata": {"labels": {"x": "y"}}}, namespace="default")


async def test_configurations_are_looked_into(world: World) -> None:
    manifest = {**INFERENCE, "inference": {**INFERENCE["inference"], "config": "mine"}}
    with pytest.raises(Invalid, match="there is no ConfigMap mine"):
        await world.create(manifest)
    data = {"inference_config.yaml": "vllm: nonsense"}
    metadata = {"name": "mine", "namespace": "default"}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    await world.client.create(CONFIG_MAPS, config)
    with pytest.raises(Invalid, match="vllm must be a map"):
        await world.create(manifest)
    data = {"inference_config.yaml": "vllm: {port: 8000}"}
    await world.client.patch(CONFIG_MAPS, "mine", {"data": data}, namespace="default")
    with pytest.raises(Invalid, match="expect port 5000: remove port"):
        await world.create(manifest)
    data = {"inference_config.yaml": "vllm: {max-model-len: 4096, port: 5000}"}
    await world.client.patch(CONFIG_MAPS, "mine", {"data": data}, namespace="default")
    await world.create(manifest)


async def test_without_the_webhook_nothing_new_is_taken_but_what_is_there_can_go(world: World) -> None:
    await world.create(INFERENCE)
    finalizers = {"metadata": {"finalizers": ["workspace.finalizer.kaito.sh"]}}
    await world.client.patch(WORKSPACES, "w", finalizers, namespace="default")
    await world.stop()
    with pytest.raises(InternalError, match="failed calling webhook"):
        await world.create({**INFERENCE, "metadata": {"name": "v", "namespace": "default"}})
    status = {"status": {"workerNodes": ["n"]}}
    await world.client.patch(WORKSPACES, "w", status, namespace="default", subresource="status")
    await world.client.delete(WORKSPACES, "w", "default")
    await world.client.patch(WORKSPACES, "w", {"metadata": {"finalizers": None}}, namespace="default")
    assert await world.client.list(WORKSPACES) == []


# Whatever is asked


_TEXT = st.one_of(
    st.sampled_from(["", "w", "phi-3-mini-4k-instruct", "lora", "Standard_NC6s_v3", "r.io/x:1", "A"]),
    st.text(max_size=6),
)
_SOURCE = st.fixed_dictionaries(
    {},
    optional={
        "name": _TEXT,
        "urls": st.lists(_TEXT, max_size=2),
        "image": _TEXT,
        "volumeSource": st.just({"emptyDir": {}}),
        "imagePullSecrets": st.lists(_TEXT, max_size=2),
    },
)
_PRESET = st.fixed_dictionaries(
    {"name": _TEXT},
    optional={
        "accessMode": st.sampled_from(["public", "private"]),
        "presetOptions": st.fixed_dictionaries({}, optional={"image": _TEXT, "modelAccessSecret": _TEXT}),
    },
)
_WORKSPACES = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": _TEXT}, optional={"annotations": st.dictionaries(_TEXT, _TEXT, max_size=2)}
        )
    },
    optional={
        "resource": st.fixed_dictionaries(
            {},
            optional={
                "count": st.integers(-1, 3),
                "instanceType": _TEXT,
                "labelSelector": st.fixed_dictionaries(
                    {}, optional={"matchLabels": st.dictionaries(_TEXT, _TEXT, max_size=2)}
                ),
                "preferredNodes": st.lists(_TEXT, max_size=2),
            },
        ),
        "inference": st.fixed_dictionaries(
            {},
            optional={
                "preset": _PRESET,
                "template": st.recursive(
                    st.one_of(_TEXT, st.integers(), st.none()),
                    lambda inner: st.one_of(
                        st.lists(inner, max_size=2),
                        st.dictionaries(st.sampled_from(["spec", "containers", "image", "name"]), inner, max_size=3),
                    ),
                    max_leaves=6,
                ).filter(lambda value: isinstance(value, dict)),
                "adapters": st.lists(
                    st.fixed_dictionaries({}, optional={"source": _SOURCE, "strength": _TEXT}), max_size=12
                ),
                "config": _TEXT,
            },
        ),
        "tuning": st.fixed_dictionaries(
            {},
            optional={
                "preset": _PRESET,
                "method": _TEXT,
                "config": _TEXT,
                "input": _SOURCE,
                "output": st.fixed_dictionaries(
                    {}, optional={"image": _TEXT, "imagePushSecret": _TEXT, "volumeSource": st.just({"emptyDir": {}})}
                ),
            },
        ),
    },
)
_POLICIES = st.builds(
    Policy,
    cloud=st.sampled_from(["azure", "aws", "arc"]),
    makes_nodes=st.booleans(),
    own_image=st.booleans(),
    private_urls=st.booleans(),
)


@given(manifest=_WORKSPACES, policy=_POLICIES)
def test_every_workspace_is_judged_without_a_fault(manifest: dict[str, Any], policy: Policy) -> None:
    workspace = read_workspace(manifest)
    verdict = validate(workspace, CATALOGUE, policy)
    assert all(error.path and error.message for error in verdict.errors)
    assert validate_update(workspace, workspace, CATALOGUE, policy).errors == (), "what did not change is not blamed"


@given(old=_WORKSPACES, new=_WORKSPACES, policy=_POLICIES)
def test_every_change_is_judged_without_a_fault(old: dict[str, Any], new: dict[str, Any], policy: Policy) -> None:
    before, after = read_workspace(old), read_workspace(new)
    errors = validate_update(after, before, CATALOGUE, policy).errors
    going = after.model_copy(
        update={"metadata": after.metadata.model_copy(update={"deletion_timestamp": "2024-11-16T12:00:00Z"})}
    )
    assert validate_update(going, before, CATALOGUE, policy).errors == ()
    assert all(error.message for error in errors)
