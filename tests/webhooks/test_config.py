"""`config/components/webhook` as kustomize builds it, and the operator that serves it, as a process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.api.defaulting import read_workspace
from kaito.api.resources import WORKSPACES
from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.runtime import (
    ENDPOINTS,
    NAMESPACES,
    SERVICES,
    VALIDATING_WEBHOOK_CONFIGURATIONS,
    ApiError,
    Client,
    Invalid,
    Rest,
    RuntimeMetrics,
)
from support.controlplane import of_server
from support.definitions import install
from support.kustomize import build
from support.waiting import eventually

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return build(tmp_path_factory.mktemp("kustomize"), "default", ["components/webhook"])


def of_kind(built: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in built if document["kind"] == kind]


def test_the_component_turns_the_webhook_on(built: list[dict[str, Any]]) -> None:
    (deployment,) = of_kind(built, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert "--webhook" in container["args"]
    assert {"name": "webhook", "containerPort": 9443} in container["ports"]
    (configuration,) = of_kind(built, "ValidatingWebhookConfiguration")
    service = configuration["webhooks"][0]["clientConfig"]["service"]
    services = {item["metadata"]["name"]: item for item in of_kind(built, "Service")}
    found = services[service["name"]]
    assert (found["metadata"]["namespace"], found["spec"]["ports"][0]["port"]) == (service["namespace"], 443)


async def test_the_operator_serves_it(built: list[dict[str, Any]], tmp_path: Path) -> None:
    async with ApiServer(ApiServerOptions()) as server:
        rest = Rest(of_server(server), RuntimeMetrics())
        client = Client(rest)
        await install(client)
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kaito-system"}})
        (configuration,) = of_kind(built, "ValidatingWebhookConfiguration")
        await client.create(VALIDATING_WEBHOOK_CONFIGURATIONS, configuration)
        service = next(
            item for item in of_kind(built, "Service") if item["metadata"]["name"] == "kaito-webhook-service"
        )
        await client.create(SERVICES, service)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        subset = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "https", "port": port}]}
        metadata = {"name": "kaito-webhook-service", "namespace": "kaito-system"}
        await client.create(
            ENDPOINTS, {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": [subset]}
        )
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(server.kubeconfig()))
        flags = ["--controllers=workspace", "--webhook", f"--webhook-port={port}", "--webhook-namespace=kaito-system"]
        flags += [f"--kubeconfig={kubeconfig}", "--metrics-bind-address=0", "--health-probe-bind-address=0"]
        with (tmp_path / "log").open("wb") as log:
            operator = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "kaito",
                "manager",
                *flags,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            resource = {"instanceType": "Standard_NV6", "labelSelector": {"matchLabels": {"apps": "phi-3"}}}
            manifest = {
                "metadata": {"name": "w", "namespace": "default"},
                "resource": resource,
                "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
            }

            async def refused() -> bool:
                try:
                    await client.create(WORKSPACES, read_workspace(manifest))
                except Invalid as error:
                    return "GPU memory" in error.message
                except ApiError:
                    return False  # it does not serve yet
                raise AssertionError("the Workspace was let in")

            await eventually(refused, deadline=60.0)
        finally:
            operator.terminate()
            await asyncio.wait_for(operator.wait(), 30)
            await rest.aclose()
