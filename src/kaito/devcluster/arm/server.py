"""The emulator over HTTP."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from kaito.devcluster.arm.errors import ArmError, bad_request, in_progress, pool_not_found, precondition_failed
from kaito.devcluster.arm.faults import ConnectionDropped, Faults
from kaito.devcluster.arm.operations import Operation, Operations
from kaito.devcluster.arm.pools import Pool, requested_properties
from kaito.devcluster.arm.site import Site

if TYPE_CHECKING:
    from kaito.devcluster.arm.operations import PoolHook

RECORDED = 1000
"""Requests that are remembered."""

_POOLS = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/Microsoft\.ContainerService"
    r"/managedClusters/(?P<cluster>[^/]+)/agentPools(?:/(?P<pool>[^/]+))?/?",
    re.IGNORECASE,
)
_OPERATIONS = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/providers/Microsoft\.ContainerService/locations/[^/]+"
    r"/(?P<kind>operations|operationresults)/(?P<id>[^/]+)",
    re.IGNORECASE,
)
_STATE_OPERATIONS = {"Creating": "create", "Updating": "update", "Deleting": "delete"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOptions:
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    site: Site = field(default_factory=Site)
    token: str = ""
    """The bearer token to insist on; ``""`` takes any."""
    create_seconds: float = 3.0
    delete_seconds: float = 1.0
    page_size: int = 100


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that was received."""

    method: str
    """GET, LIST, PUT, DELETE, or the HTTP method of anything else."""
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class ArmEmulator:
    """One managed cluster, on loopback; pools live as long as the object.

    ``on_pool_ready`` is awaited when the machines of a new pool have joined, before it counts as Succeeded;
    ``on_pool_gone`` when those of a deleted pool are gone, before it is forgotten.
    """

    def __init__(
        self,
        options: ArmOptions | None = None,
        *,
        on_pool_ready: PoolHook,
        on_pool_gone: PoolHook,
    ) -> None:
        self.options = options or ArmOptions()
        self.faults = Faults()
        self.requests: deque[Recorded] = deque(maxlen=RECORDED)
        """The newest requests, oldest first."""
        self._operations = Operations(
            self.faults,
            create_seconds=self.options.create_seconds,
            delete_seconds=self.options.delete_seconds,
            on_ready=on_pool_ready,
            on_gone=on_pool_gone,
        )
        self._runner: web.ServerRunner | None = None
        self._port = self.options.port

    async def __aenter__(self) -> ArmEmulator:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        runner = web.ServerRunner(
            web.Server(cast("Any", self._serve), access_log=None, handler_cancellation=True), shutdown_timeout=1.0
        )
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, self.options.host, self.options.port).start()
        except BaseException:
            await self.stop()
            raise
        self._port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close every connection and leave nothing running; operations stay where they are."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self._operations.aclose()

    @property
    def url(self) -> str:
        return f"http://{self.options.host}:{self._port}"

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools that exist, by name."""
        return self._operations.pools

    def add_pool(self, name: str, properties: Mapping[str, Any], *, state: str = "Succeeded") -> Pool:
        """Put a pool there as it is, as if it had always been. Raises ArmError for one that Azure would refuse."""
        body = {"properties": dict(properties)}
        pool = Pool(self.options.site, name, requested_properties(self.options.site, name, body), state)
        self._operations.pools[name] = pool
        return pool

    def drop_pool(self, name: str) -> Pool:
        """Forget a pool at once, without a word to anybody. Raises KeyError."""
        return self._operations.pools.pop(name)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            reply = await self._answer(request)
        except ConnectionDropped:
            if request.transport is not None:
                request.transport.close()
            return web.Response(status=500)
        except ArmError as error:
            reply = _Reply(error.status, error.body(), error.headers)
        data = b"" if reply.body is None else msgspec.json.encode(reply.body)
        headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers}
        return web.Response(status=reply.status, body=data, headers=headers)

    async def _answer(self, request: web.BaseRequest) -> _Reply:
        pools = _POOLS.fullmatch(request.path)
        name = (pools["pool"] or "") if pools else ""
        method = "LIST" if pools and not name and request.method == "GET" else request.method
        body = _decoded(await request.read())
        self.requests.append(Recorded(method, request.path, dict(request.query), dict(request.headers), body))
        self._authenticate(request)
        if not request.query.get("api-version"):
            raise ArmError(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        if pools is None:
            return self._operation(request)
        self._locate(pools)
        fault = await self.faults.before(method, name)
        try:
            return self._pools(method, name, request, body)
        finally:
            if fault is not None and fault.drop == "after":
                raise ConnectionDropped

    def _authenticate(self, request: web.BaseRequest) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ArmError(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or not a bearer's.",
            )
        if self.options.token and token != self.options.token:
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")

    def _locate(self, found: re.Match[str]) -> None:
        site = self.options.site
        if found["subscription"].lower() != site.subscription.lower():
            raise ArmError(
                404, "SubscriptionNotFound", f"The subscription '{found['subscription']}' could not be found."
            )
        if found["group"].lower() != site.resource_group.lower():
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{found['group']}' could not be found.")
        if found["cluster"].lower() != site.cluster.lower():
            raise ArmError(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.ContainerService/managedClusters/{found['cluster']}' under resource group "
                f"'{found['group']}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )

    def _pools(self, method: str, name: str, request: web.BaseRequest, body: Any) -> _Reply:
        if method == "LIST":
            return self._list(request)
        if name and method == "GET":
            return _Reply(200, self._pool(name).resource())
        if name and method == "PUT":
            return self._put(name, request, body)
        if name and method == "DELETE":
            return self._delete(name, request)
        raise ArmError(405, "HttpMethodNotAllowed", f"The {method} method is not supported here.")

    def _pool(self, name: str) -> Pool:
        pool = self.pools.get(name.lower())
        if pool is None:
            raise pool_not_found(name)
        return pool

    def _list(self, request: web.BaseRequest) -> _Reply:
        token = request.query.get("$skiptoken", "")
        names = [name for name in sorted(self.pools) if name > token]
        page = names[: self.options.page_size]
        reply: dict[str, Any] = {"value": [self.pools[name].resource() for name in page]}
        if len(names) > len(page):
            query = urlencode({"api-version": request.query["api-version"], "$skiptoken": page[-1]})
            reply["nextLink"] = f"{self.url}{request.path}?{query}"
        return _Reply(200, reply)

    def _put(self, name: str, request: web.BaseRequest, body: Any) -> _Reply:
        site = self.options.site
        properties = requested_properties(site, name, body)
        pool = self.pools.get(name)
        _check_conditions(request, name, pool)
        if pool is None:
            created = Pool(site, name, properties)
            operation = self._operations.create(created)
            return _Reply(201, created.resource(), self._polling(operation))
        _check_idle(pool)
        if pool.properties["vmSize"] != properties["vmSize"]:
            raise bad_request(
                "PropertyChangeNotAllowed", "Changing property 'properties.vmSize' is not allowed on an agent pool."
            )
        operation = self._operations.update(pool, properties)
        return _Reply(200, pool.resource(), self._polling(operation))

    def _delete(self, name: str, request: web.BaseRequest) -> _Reply:
        pool = self.pools.get(name.lower())
        if pool is None:
            return _Reply(204)
        _check_conditions(request, name, pool)
        _check_idle(pool)
        operation = self._operations.delete(pool)
        return _Reply(202, None, {**self._polling(operation), "Location": self._link("operationresults", operation)})

    def _polling(self, operation: Operation) -> dict[str, str]:
        return {"Azure-AsyncOperation": self._link("operations", operation)}

    def _link(self, kind: str, operation: Operation) -> str:
        site = self.options.site
        return (
            f"{self.url}/subscriptions/{site.subscription}/providers/Microsoft.ContainerService/locations/"
            f"{site.location}/{kind}/{operation.id}?api-version=2017-08-31"
        )

    def _operation(self, request: web.BaseRequest) -> _Reply:
        found = _OPERATIONS.fullmatch(request.path)
        operation = self._operations.find(found["id"]) if found else None
        if found is None or operation is None or request.method != "GET":
            raise ArmError(404, "ResourceNotFound", f"There is nothing at {request.path}.")
        if found["kind"].lower() == "operations":
            return _Reply(200, operation.resource())
        if operation.status == "InProgress":
            return _Reply(202, None, {"Location": self._link("operationresults", operation)})
        if operation.error is not None:
            raise operation.error
        return _Reply(204) if operation.kind == "delete" else _Reply(200, operation.pool.resource())


def _decoded(data: bytes) -> Any:
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ArmError(400, "InvalidRequestContent", f"The request content was invalid JSON: {error}") from error


def _check_conditions(request: web.BaseRequest, name: str, pool: Pool | None) -> None:
    wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if wanted is not None and (pool is None or wanted.strip('"') not in ("*", pool.etag)):
        raise precondition_failed(name)
    if unwanted is not None and pool is not None and unwanted.strip('"') in ("*", pool.etag):
        raise precondition_failed(name)


def _check_idle(pool: Pool) -> None:
    operation = _STATE_OPERATIONS.get(pool.state)
    if operation is not None:
        raise in_progress(operation, pool.name)
