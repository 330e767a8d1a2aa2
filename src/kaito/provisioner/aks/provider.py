"""The provider: one request to Azure for each step, none of which waits for an operation to end."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError as SdkError
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.mgmt.containerservice.models import AgentPool

from kaito.provisioner.aks.classify import AzureError, classify
from kaito.provisioner.aks.client import make_client, make_credential
from kaito.provisioner.aks.pools import NAME, agent_pool, azure_error, instance
from kaito.provisioner.errors import (
    AuthorizationFailed,
    CapacityUnavailable,
    InstanceBusy,
    InstanceNotFound,
    NotOwned,
    ProviderError,
    SkuUnavailable,
    Unavailable,
)
from kaito.provisioner.provider import InstanceState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from kaito.provisioner.aks.config import AksConfig
    from kaito.provisioner.provider import Instance, InstanceSpec

CALL_TIMEOUT = 60.0
"""Seconds for one call, token and all pages included."""


@final
class AksProvider:
    name = "aks"

    def __init__(self, config: AksConfig, *, call_timeout: float = CALL_TIMEOUT) -> None:
        self._group = config.resource_group
        self._cluster = config.cluster_name
        self._call_timeout = call_timeout
        self._credential = make_credential(config.identity)
        self._client = make_client(config, self._credential)

    async def create(self, spec: InstanceSpec) -> Instance:
        """Sizes are tried in order for as long as Azure refuses them at once."""
        refusal: ProviderError | None = None
        for vm_size in spec.vm_sizes:
            try:
                return await self._create(spec, vm_size)
            except (CapacityUnavailable, SkuUnavailable) as error:
                refusal = refusal or error
        assert refusal is not None, "an InstanceSpec has at least one size"
        raise refusal

    async def _create(self, spec: InstanceSpec, vm_size: str) -> Instance:
        body = AgentPool(agent_pool(spec, vm_size))
        try:
            async with self._call():
                # Only ever creates: a pool of that name, whoever made it, is never changed.
                poller = await self._client.agent_pools.begin_create_or_update(
                    self._group,
                    self._cluster,
                    spec.name,
                    body,
                    match_condition=MatchConditions.IfMissing,
                    polling=False,
                )
                return instance(await poller.result())
        except InstanceBusy as busy:
            try:
                existing = await self.get(spec.name)
            except InstanceNotFound:
                raise busy from None
        if existing.owner != spec.owner:
            raise NotOwned(f"there is already an agent pool {spec.name}, and it was not made for this Machine")
        return existing

    async def get(self, name: str) -> Instance:
        if not NAME.fullmatch(name):
            raise InstanceNotFound(f"no agent pool can be called {name!r}")
        async with self._call():
            return instance(await self._client.agent_pools.get(self._group, self._cluster, name))

    async def list(self) -> list[Instance]:
        async with self._call():
            pools = [instance(pool) async for pool in self._client.agent_pools.list(self._group, self._cluster)]
        return [pool for pool in pools if pool.owner]

    async def delete(self, instance: Instance) -> None:
        if not instance.owner:
            raise NotOwned(f"the agent pool {instance.name} was not made by kaito")
        if instance.state is InstanceState.DELETING:
            return
        condition: dict[str, Any] = {}
        if instance.etag:
            condition = {"etag": instance.etag, "match_condition": MatchConditions.IfNotModified}
        try:
            async with self._call():
                await self._client.agent_pools.begin_delete(
                    self._group, self._cluster, instance.name, polling=False, **condition
                )
        except InstanceNotFound:
            return

    async def aclose(self) -> None:
        try:
            await self._client.close()
        finally:
            await self._credential.close()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """One call: bounded in time, its errors given their types."""
        try:
            async with asyncio.timeout(self._call_timeout) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable(f"Azure did not answer within {self._call_timeout:g} s") from error
        except HttpResponseError as error:
            raise _from_response(error) from error
        except SdkError as error:
            raise Unavailable(f"cannot reach Azure: {error.message}") from error
        except OSError as error:  # such as a token file that is not there
            raise AuthorizationFailed(f"cannot read the credentials: {error}") from error


def _from_response(error: HttpResponseError) -> ProviderError:
    if isinstance(error, ClientAuthenticationError) and error.response is None:
        return AuthorizationFailed(error.message)
    told = azure_error(error.error) if error.error is not None else AzureError("", error.message)
    return classify(told, error.status_code or 0, retry_after=_retry_after(error))


def _retry_after(error: HttpResponseError) -> float | None:
    headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
