"""The provider: one request to Azure for each step, none of which waits for an operation to end."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError as SdkError
from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest
from azure.mgmt.containerservice.models import AgentPool

from kaito.provisioner.aks.classify import AzureError, classify
from kaito.provisioner.aks.client import make_client
from kaito.provisioner.aks.pools import NAME, agent_pool, azure_error, instance
from kaito.provisioner.aks.sizes import API_VERSION as SIZES_API_VERSION
from kaito.provisioner.aks.sizes import instance_types
from kaito.provisioner.aks.throttle import Throttle
from kaito.provisioner.errors import (
    CapacityUnavailable,
    ClusterNotReady,
    InstanceBusy,
    InstanceNotFound,
    NotOwned,
    ProviderError,
    SkuUnavailable,
    Throttled,
    Unavailable,
)
from kaito.provisioner.provider import InstanceState
from kaito.provisioner.registry import unguarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from kaito.provisioner.aks.config import AksConfig
    from kaito.provisioner.provider import Guard, Instance, InstanceSpec, InstanceType

CALL_TIMEOUT = 60.0
"""Seconds for one call, token and all pages included."""
CLUSTER_TTL = 10.0
"""Seconds for which what the cluster has said about itself counts."""


@final
class AksProvider:
    name = "aks"

    def __init__(
        self,
        config: AksConfig,
        guard: Guard = unguarded,
        *,
        call_timeout: float = CALL_TIMEOUT,
        cluster_ttl: float = CLUSTER_TTL,
    ) -> None:
        self._subscription = config.subscription_id
        self._group = config.resource_group
        self._cluster = config.cluster_name
        self._call_timeout = call_timeout
        self._client, self._tokens = make_client(config, guard)
        self._reads, self._writes = Throttle(time.monotonic), Throttle(time.monotonic)
        self._state = _ClusterState(cluster_ttl)

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
        await self._require_running()
        try:
            async with self._call(self._writes):
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
            self._state.forget()
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
        async with self._call(self._reads):
            return instance(await self._client.agent_pools.get(self._group, self._cluster, name))

    async def instance_types(self) -> list[InstanceType]:
        async with self._call(self._reads):
            cluster = await self._client.managed_clusters.get(self._group, self._cluster)
            url: str | None = f"/subscriptions/{self._subscription}/providers/Microsoft.Compute/skus"
            params = {"api-version": SIZES_API_VERSION, "$filter": f"location eq '{cluster.location}'"}
            found: list[InstanceType] = []
            while url:
                answer = await self._client.send_request(HttpRequest("GET", url, params=params))
                answer.raise_for_status()
                page = answer.json()
                found += instance_types(page)
                url, params = page.get("nextLink"), {}
        return found

    async def list(self) -> list[Instance]:
        async with self._call(self._reads):
            return [instance(pool) async for pool in self._client.agent_pools.list(self._group, self._cluster)]

    async def delete(self, instance: Instance) -> None:
        if not instance.owner:
            raise NotOwned(f"the agent pool {instance.name} was not made by kaito")
        if instance.state is InstanceState.DELETING:
            return
        await self._require_running()
        condition: dict[str, Any] = {}
        if instance.etag:
            condition = {"etag": instance.etag, "match_condition": MatchConditions.IfNotModified}
        try:
            async with self._call(self._writes):
                await self._client.agent_pools.begin_delete(
                    self._group, self._cluster, instance.name, polling=False, **condition
                )
        except InstanceNotFound:
            return
        except InstanceBusy:
            self._state.forget()
            raise

    async def aclose(self) -> None:
        try:
            await self._client.close()
        finally:
            await self._tokens.aclose()

    async def _require_running(self) -> None:
        """A cluster that is stopped, or starts, stops or changes, takes no change of its pools.

        Raises ClusterNotReady. One request answers for all calls of the next seconds.
        """
        await self._state.ask(self._look_at_cluster)
        self._state.check(self._cluster)

    async def _look_at_cluster(self) -> tuple[str, str]:
        async with self._call(self._reads):
            cluster = await self._client.managed_clusters.get(self._group, self._cluster)
        power = cluster.power_state or {}
        return cluster.provisioning_state or "", power.get("code") or "Running"

    @asynccontextmanager
    async def _call(self, throttle: Throttle) -> AsyncIterator[None]:
        """One call: bounded in time, its errors given their types."""
        throttle.check()
        try:
            async with asyncio.timeout(self._call_timeout) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable(f"Azure did not answer within {self._call_timeout:g} s") from error
        except HttpResponseError as error:
            told = _from_response(error)
            raise (throttle.note(told) if isinstance(told, Throttled) else told) from error
        except SdkError as error:
            raise Unavailable(f"cannot reach Azure: {error.message}") from error


@final
class _ClusterState:
    """What the cluster has said about itself last."""

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._until = 0.0
        self._provisioning = self._power = ""
        self._asking = asyncio.Lock()
        self._failure: tuple[float, ProviderError] | None = None

    async def ask(self, look: Callable[[], Awaitable[tuple[str, str]]]) -> None:
        """Ask, unless that is known; all who wait for the same answer share it, also where it is an error."""
        arrived = time.monotonic()
        async with self._asking:
            if time.monotonic() < self._until:
                return
            if self._failure is not None and self._failure[0] >= arrived:
                raise self._failure[1]
            try:
                self._provisioning, self._power = await look()
            except ProviderError as error:
                self._failure = time.monotonic(), error
                raise
            self._until = time.monotonic() + self._ttl

    def forget(self) -> None:
        self._until = 0.0

    def check(self, cluster: str) -> None:
        if (self._provisioning.lower(), self._power.lower()) != ("succeeded", "running"):
            raise ClusterNotReady(
                f"the cluster {cluster} is {self._power}, its provisioning state {self._provisioning}: nothing is created "
                "or deleted until it is Running and Succeeded"
            )


def _from_response(error: HttpResponseError) -> ProviderError:
    told = azure_error(error.error) if error.error is not None else AzureError("", error.message)
    return classify(told, error.status_code or 0, retry_after=_retry_after(error))


def _retry_after(error: HttpResponseError) -> float | None:
    headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
