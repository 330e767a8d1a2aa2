"""The emulator over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
from aiohttp import web

from kaito.devcluster.arm import control
from kaito.devcluster.arm.errors import ArmError
from kaito.devcluster.arm.faults import ConnectionDropped, Faults
from kaito.devcluster.arm.managed import ManagedCluster
from kaito.devcluster.arm.operations import Operations
from kaito.devcluster.arm.pools import Pool, requested_properties
from kaito.devcluster.arm.routes import Call, Reply, Routes
from kaito.devcluster.arm.site import Site

if TYPE_CHECKING:
    from kaito.devcluster.arm.operations import PoolHook
    from kaito.devcluster.arm.tokens import TokenServer

RECORDED = 10_000
"""Requests that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmOptions:
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    site: Site = field(default_factory=Site)
    token: str = ""
    """The bearer token to insist on; ``""`` takes any."""
    authority: TokenServer | None = None
    """Whose tokens to insist on."""
    tls: ssl.SSLContext | None = None
    """None serves plain HTTP."""
    create_seconds: float = 3.0
    delete_seconds: float = 1.0
    latency: float = 0.0
    """Seconds that every answer takes."""
    exclusive: bool = False
    """Whether the cluster takes one operation on pools at a time, as some do."""
    page_size: int = 100


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that was received."""

    method: str
    """GET, LIST, PUT, DELETE (of pools), CLUSTER, OPERATION, SKUS, or the HTTP method of anything else."""
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


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
        self.cluster = ManagedCluster(self.options.site)
        self._operations = Operations(
            self.cluster,
            self.faults,
            create_seconds=self.options.create_seconds,
            delete_seconds=self.options.delete_seconds,
            on_ready=on_pool_ready,
            on_gone=on_pool_gone,
        )
        self._routes = Routes(
            self._operations,
            lambda: self.url,
            page_size=self.options.page_size,
            exclusive=self.options.exclusive,
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
            site = web.TCPSite(runner, self.options.host, self.options.port, ssl_context=self.options.tls)
            await site.start()
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
        return f"{'https' if self.options.tls else 'http'}://{self.options.host}:{self._port}"

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
            reply = Reply(error.status, error.body(), error.headers)
        data = b"" if reply.body is None else msgspec.json.encode(reply.body)
        headers = {"Content-Type": "application/json; charset=utf-8", **reply.headers}
        return web.Response(status=reply.status, body=data, headers=headers)

    async def _answer(self, request: web.BaseRequest) -> Reply:
        body = _decoded(await request.read())
        call = Call(request.method, request.path, request.query, request.headers, body)
        if call.path.startswith(control.PREFIX):
            return control.answer(call, self.faults, self.requests)
        self.requests.append(Recorded(call.kind, call.path, dict(call.query), dict(call.headers), body))
        if self.options.latency:
            await asyncio.sleep(self.options.latency)
        self._authenticate(request)
        fault = await self.faults.before(call.kind, call.pool)
        try:
            return self._routes.answer(call)
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
        authority = self.options.authority
        code = authority.verdict(token) if authority is not None else ""
        if self.options.token and token != self.options.token:
            code = "InvalidAuthenticationToken"
        if code:
            raise ArmError(401, code, "The access token is invalid or has expired.")


def _decoded(data: bytes) -> Any:
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ArmError(400, "InvalidRequestContent", f"The request content was invalid JSON: {error}") from error
