"""The SDK's client, with kaito's identity and without the SDK's own retries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, final

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito.provisioner.aks.config import EmulatorToken, ManagedIdentity
from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.core.pipeline import PipelineRequest

    from kaito.provisioner.aks.config import AksConfig, Identity

USER_AGENT = "kaito"
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0
"""Seconds."""


@final
class EmulatorCredential:
    """Hands out one fixed token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3600)

    async def close(self) -> None:
        """There is nothing to close."""

    async def __aenter__(self) -> EmulatorCredential:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """There is nothing to close."""


@final
class AllowPlainHttp(SansIOHTTPPolicy[Any, Any]):
    """Lets the SDK send its token over ``http://``; only for an emulator on this machine."""

    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.context.options.setdefault("enforce_https", False)


def make_credential(identity: Identity) -> AsyncTokenCredential:
    """Raises ConfigError for an identity that cannot work."""
    if isinstance(identity, EmulatorToken):
        return EmulatorCredential(identity.token)
    # Importing it costs 0.3 s and 17 MB, which an emulator does not need.
    from azure.identity.aio import DefaultAzureCredential, WorkloadIdentityCredential

    if isinstance(identity, ManagedIdentity):
        return DefaultAzureCredential(managed_identity_client_id=identity.client_id)
    options = {"authority": identity.authority} if identity.authority else {}
    try:
        return WorkloadIdentityCredential(
            tenant_id=identity.tenant_id,
            client_id=identity.client_id,
            token_file_path=identity.token_file,
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"the workload identity of the aks provider cannot work: {error}") from error


def make_client(config: AksConfig, credential: AsyncTokenCredential) -> ContainerServiceClient:
    """Retries are the Machine controller's affair: the SDK would sleep for as long as a Retry-After header says."""
    options: dict[str, Any] = {}
    if config.endpoint is not None:
        options["credential_scopes"] = [f"{config.endpoint}/.default"]
    if isinstance(config.identity, EmulatorToken):
        options["per_call_policies"] = [AllowPlainHttp()]
    return ContainerServiceClient(
        credential,
        config.subscription_id,
        config.endpoint,
        user_agent=USER_AGENT,
        retry_total=0,
        connection_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        **options,
    )
