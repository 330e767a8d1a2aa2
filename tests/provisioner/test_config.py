"""Choosing a provider, and its settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaito.provisioner import load_provider
from kaito.provisioner.aks.config import EMULATOR_TOKEN, AksConfig, EmulatorToken, ManagedIdentity, WorkloadIdentity
from kaito.provisioner.aks.identity import make_credential
from kaito.runtime import ConfigError

CLUSTER = {"ARM_SUBSCRIPTION_ID": "sub", "ARM_RESOURCE_GROUP": "rg", "AZURE_CLUSTER_NAME": " aks "}
IDENTITY = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_FEDERATED_TOKEN_FILE": "/token"}
EMULATOR = {"AZURE_RESOURCE_MANAGER_ENDPOINT": "http://127.0.0.1:1234/"}


def test_every_missing_variable_is_named() -> None:
    with pytest.raises(ConfigError) as raised:
        AksConfig.from_environ({"ARM_RESOURCE_GROUP": "rg", "AZURE_CLIENT_ID": " "})
    for name in (
        "ARM_SUBSCRIPTION_ID",
        "AZURE_CLUSTER_NAME",
        "AZURE_TENANT_ID",
        "AZURE_CLIENT_ID",
        "AZURE_FEDERATED_TOKEN_FILE",
    ):
        assert name in str(raised.value)
    assert "ARM_RESOURCE_GROUP" not in str(raised.value)


def test_workload_identity_is_the_default() -> None:
    config = AksConfig.from_environ({**CLUSTER, **IDENTITY})
    assert config.cluster_name == "aks"
    assert config.endpoint is None
    assert config.identity == WorkloadIdentity("tenant", "client", "/token", None)


def test_managed_mode_takes_what_the_environment_offers() -> None:
    config = AksConfig.from_environ({**CLUSTER, "DEPLOYMENT_MODE": "managed"})
    assert config.identity == ManagedIdentity(None)
    with pytest.raises(ConfigError, match="self-hosted or managed"):
        AksConfig.from_environ({**CLUSTER, "DEPLOYMENT_MODE": "other"})


def test_an_emulator_needs_no_identity() -> None:
    config = AksConfig.from_environ({**CLUSTER, **EMULATOR})
    assert config.endpoint == "http://127.0.0.1:1234"
    assert config.identity == EmulatorToken(EMULATOR_TOKEN)
    given = AksConfig.from_environ({**CLUSTER, **EMULATOR, "ARM_EMULATOR_TOKEN": "secret"})
    assert given.identity == EmulatorToken("secret")
    assert "secret" not in repr(given)


@pytest.mark.parametrize(
    "endpoint", ["http://management.azure.com", "http://10.0.0.1:80", "ftp://localhost", "management"]
)
def test_a_token_goes_over_plain_http_to_this_machine_alone(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="AZURE_RESOURCE_MANAGER_ENDPOINT"):
        AksConfig.from_environ({**CLUSTER, **IDENTITY, "AZURE_RESOURCE_MANAGER_ENDPOINT": endpoint})


def test_another_cloud_keeps_its_identity() -> None:
    environ = {**CLUSTER, **IDENTITY, "AZURE_RESOURCE_MANAGER_ENDPOINT": "https://management.usgovcloudapi.net/"}
    config = AksConfig.from_environ(environ)
    assert (config.endpoint, type(config.identity)) == ("https://management.usgovcloudapi.net", WorkloadIdentity)


async def test_credentials_of_each_kind(tmp_path: Path) -> None:
    for identity in (
        WorkloadIdentity("tenant", "client", str(tmp_path / "token"), "https://login.example.com"),
        ManagedIdentity("client"),
    ):
        await make_credential(AksConfig("sub", "rg", "aks", identity)).close()


def test_an_unknown_provider() -> None:
    with pytest.raises(ConfigError, match="no cloud provider 'gke'; installed are: aks, simulated"):
        load_provider("gke", {})


async def test_a_provider_is_found_by_name() -> None:
    provider = load_provider("aks", {**CLUSTER, **EMULATOR})
    assert provider.name == "aks"
    await provider.aclose()


def test_azure_is_loaded_only_when_chosen_and_identity_only_when_needed() -> None:
    script = f"""
import sys
import kaito.provisioner, kaito.controllers.machine
assert not any(name.startswith("azure") for name in sys.modules)
import asyncio
async def main():
    provider = kaito.provisioner.load_provider("aks", { ({**CLUSTER, **EMULATOR})!r})
    assert "azure.mgmt.containerservice" in sys.modules
    assert "azure.identity" not in sys.modules
    await provider.aclose()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
