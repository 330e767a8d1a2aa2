"""Tokens for Azure Resource Manager: fetched once for all requests, and anew when they expire or are rejected."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, final

from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.policies import AsyncHTTPPolicy

from kaito.provisioner.aks.config import EmulatorToken, ManagedIdentity
from kaito.provisioner.errors import AuthenticationFailed, Unavailable
from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.core.pipeline import PipelineRequest, PipelineResponse

    from kaito.provisioner.aks.config import AksConfig

EXPIRY_MARGIN = 300.0
"""Seconds before the end of a token's life at which the next one is fetched."""


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


def make_credential(config: AksConfig) -> AsyncTokenCredential:
    """Raises ConfigError for an identity that cannot work."""
    identity = config.identity
    if isinstance(identity, EmulatorToken):
        return EmulatorCredential(identity.token)
    # Importing it costs 0.3 s and 17 MB, which an emulator does not need.
    from azure.identity.aio import DefaultAzureCredential, WorkloadIdentityCredential

    options: dict[str, Any] = {"connection_verify": config.ca_file} if config.ca_file else {}
    if isinstance(identity, ManagedIdentity):
        return DefaultAzureCredential(managed_identity_client_id=identity.client_id, **options)
    if identity.authority:
        options["authority"] = identity.authority
    try:
        return WorkloadIdentityCredential(
            tenant_id=identity.tenant_id,
            client_id=identity.client_id,
            token_file_path=identity.token_file,
            # An authority of a private cloud is not known to the public one, which would be asked about it.
            disable_instance_discovery=bool(identity.authority),
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"the workload identity of the aks provider cannot work: {error}") from error


@final
class TokenPolicy(AsyncHTTPPolicy[Any, Any]):
    """Lets every request bear a token. Where Azure rejects it, the request is sent once more with a new one.

    The SDK's own policy would go on with the rejected token until its life is over; so would a credential, which is
    therefore replaced. A new one also reads the token file again, which credentials do every ten minutes only.
    """

    def __init__(self, config: AksConfig, scope: str) -> None:
        self._config = config
        self._scope = scope
        self._credential = make_credential(config)
        self._token: AccessToken | None = None
        self._fetching = asyncio.Lock()

    async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        token = await self._bearer()
        response = await self._send(request, token)
        if response.http_response.status_code != 401:
            return response
        await response.http_response.read()
        return await self._send(request, await self._bearer(rejected=token))

    async def aclose(self) -> None:
        await self._credential.close()

    async def _send(self, request: PipelineRequest[Any], token: str) -> PipelineResponse[Any, Any]:
        request.http_request.headers["Authorization"] = f"Bearer {token}"
        return await self.next.send(request)

    async def _bearer(self, *, rejected: str = "") -> str:
        async with self._fetching:
            current = self._token
            if current is None or current.token == rejected or current.expires_on - time.time() < EXPIRY_MARGIN:
                if current is not None:
                    await self._renew()
                current = self._token = await self._fetch()
            return current.token

    async def _fetch(self) -> AccessToken:
        try:
            return await self._get_token()
        except AuthenticationFailed:
            await self._renew()
            return await self._get_token()

    async def _get_token(self) -> AccessToken:
        try:
            return await self._credential.get_token(self._scope)
        except ClientAuthenticationError as error:
            status = error.status_code or 0
            if status == 429 or status >= 500:
                raise Unavailable(f"cannot get a token for Azure: {error.message}") from error
            raise AuthenticationFailed(f"cannot get a token for Azure: {error.message}") from error
        except OSError as error:  # the token file is not there yet, or cannot be read
            raise Unavailable(f"cannot read the token of the workload identity: {error}") from error

    async def _renew(self) -> None:
        old, self._credential = self._credential, make_credential(self._config)
        self._token = None
        await old.close()
