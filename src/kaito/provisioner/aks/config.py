"""Which cluster, and as whom: from the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC_ENDPOINT = "https://management.azure.com"
EMULATOR_TOKEN = "kaito-arm-emulator"
"""Bearer token for an emulator that was given no other."""


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """The projected service account token of the pod, exchanged for Azure's."""

    tenant_id: str
    """Tenant of the identity (``AZURE_TENANT_ID``); the workload identity webhook sets it."""
    client_id: str
    """Client id of the identity (``AZURE_CLIENT_ID``); that webhook sets it, too."""
    token_file: str
    """File with the projected token (``AZURE_FEDERATED_TOKEN_FILE``); that webhook sets it, too."""
    authority: str | None
    """Where tokens come from (``AZURE_AUTHORITY_HOST``); that webhook sets it, too."""


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """Whatever identity the environment offers (``DefaultAzureCredential``)."""

    client_id: str | None


@dataclass(frozen=True, slots=True)
class EmulatorToken:
    """A fixed token, only ever sent to this machine."""

    token: str = field(repr=False)


Identity = WorkloadIdentity | ManagedIdentity | EmulatorToken


@dataclass(frozen=True, slots=True)
class AksConfig:
    subscription_id: str
    """Subscription of the cluster (``ARM_SUBSCRIPTION_ID``). Required."""
    resource_group: str
    """Resource group of the managed cluster, not of its nodes (``ARM_RESOURCE_GROUP``). Required."""
    cluster_name: str
    """Name of the managed cluster (``AZURE_CLUSTER_NAME``). Required."""
    identity: Identity
    """Who the operator is (``DEPLOYMENT_MODE``): self-hosted, with workload identity, or managed, with what the node offers."""
    endpoint: str | None = None
    """Azure Resource Manager (``AZURE_RESOURCE_MANAGER_ENDPOINT``); None for the public cloud."""
    ca_file: str | None = None
    """Certificates to trust instead of the public ones (``AZURE_CA_FILE``), as behind a proxy that opens TLS, or in a private
    cloud."""

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> AksConfig:
        """Raises ConfigError that names every variable that is missing."""
        values = {name: value.strip() for name, value in environ.items()}
        endpoint = values.get("AZURE_RESOURCE_MANAGER_ENDPOINT", "").rstrip("/") or None
        identity_kind = _identity_kind(values, endpoint)
        required = ["ARM_SUBSCRIPTION_ID", "ARM_RESOURCE_GROUP", "AZURE_CLUSTER_NAME"]
        if identity_kind is WorkloadIdentity:
            required += ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"]
        missing = [name for name in required if not values.get(name)]
        if missing:
            raise ConfigError(f"the aks provider needs these environment variables: {', '.join(missing)}")
        return AksConfig(
            subscription_id=values["ARM_SUBSCRIPTION_ID"],
            resource_group=values["ARM_RESOURCE_GROUP"],
            cluster_name=values["AZURE_CLUSTER_NAME"],
            identity=_identity(identity_kind, values),
            endpoint=endpoint,
            ca_file=values.get("AZURE_CA_FILE") or None,
        )


def _identity_kind(values: Mapping[str, str], endpoint: str | None) -> type[Identity]:
    if endpoint is not None and _is_emulator(endpoint):
        return EmulatorToken
    mode = values.get("DEPLOYMENT_MODE") or "self-hosted"
    if mode not in ("self-hosted", "managed"):
        raise ConfigError(f"DEPLOYMENT_MODE is {mode!r}; it must be self-hosted or managed")
    return WorkloadIdentity if mode == "self-hosted" else ManagedIdentity


def _identity(kind: type[Identity], values: Mapping[str, str]) -> Identity:
    if kind is EmulatorToken:
        return EmulatorToken(values.get("ARM_EMULATOR_TOKEN") or EMULATOR_TOKEN)
    if kind is ManagedIdentity:
        return ManagedIdentity(values.get("AZURE_CLIENT_ID") or None)
    return WorkloadIdentity(
        values["AZURE_TENANT_ID"],
        values["AZURE_CLIENT_ID"],
        values["AZURE_FEDERATED_TOKEN_FILE"],
        values.get("AZURE_AUTHORITY_HOST") or None,
    )


def _is_emulator(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    if parts.scheme == "https" and parts.hostname:
        return False
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"AZURE_RESOURCE_MANAGER_ENDPOINT is {endpoint!r}; it must be an https:// URL, or the http:// URL of an "
            "emulator on this machine"
        )
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
