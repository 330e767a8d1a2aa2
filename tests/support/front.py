"""A front before an API server, whichever it is, that makes it misbehave."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from kaito.devcluster.apiserver.serving.faults import ConnectionDropped, Faults
from kaito.devcluster.apiserver.wire.requests import Query, RequestInfo
from kaito.runtime import ApiError, Expired, RestConfig, TlsConfig
from kaito.runtime.transport.credentials import Anonymous

_OF_THE_CONNECTION = (hdrs.CONNECTION, hdrs.CONTENT_LENGTH, hdrs.HOST, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING)


class Front:
    """Hands requests on to the API server of ``upstream``, as its user where they name none; answers some itself.

    Closing it closes all connections on both sides.
    """

    def __init__(self, upstream: RestConfig) -> None:
        self._upstream = upstream
        self.faults = Faults()
        self.audit: list[RequestInfo] = []
        """Every request, as an audit log has them."""
        self._watches: set[asyncio.Event] = set()
        self._compacted = 0
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._url = ""

    async def __aenter__(self) -> Front:
        context: ssl.SSLContext | bool = True
        if self._upstream.server.startswith("https:"):
            context = self._upstream.tls.context()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout()
        )
        server = web.Server(cast("Any", self._serve), access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=512).start()
        self._url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Idempotent."""
        self.cut_watches()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def config(self) -> RestConfig:
        """How a client reaches the API server through here; without credentials it is the user of ``upstream``."""
        return replace(self._upstream, server=self._url, credentials=Anonymous(), tls=TlsConfig())

    def cut_watches(self) -> None:
        """End every open watch."""
        for cut in self._watches:
            cut.set()

    async def compact(self) -> None:
        """Earlier resource versions than the present one are expired from now on."""
        path = "/api/v1/namespaces"
        async with self._send("GET", path, "limit=1", {}, b"") as answer:
            listed = json.loads(await answer.read())
        self._compacted = int(listed["metadata"]["resourceVersion"])

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        query = Query.parse(request.rel_url.raw_query_string)
        info = RequestInfo.parse(request.method, request.rel_url.raw_path, query)
        self.audit.append(info)
        try:
            fault = await self.faults.before(info)
            self._check_version(info, query)
            response = await self._pass_on(request, info)
        except ApiError as error:
            return _failure(error)
        except (ConnectionDropped, aiohttp.ClientError, OSError):
            fault, response = None, _cut(request)
        return _cut(request) if fault is not None and fault.drop == "after" else response

    def _check_version(self, info: RequestInfo, query: Query) -> None:
        version = query.text("resourceVersion")
        if info.verb in ("list", "watch") and version.isdigit() and 0 < int(version) < self._compacted:
            raise Expired(f"too old resource version: {version} ({self._compacted})")

    async def _pass_on(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        body = await request.read()
        query = request.rel_url.raw_query_string
        async with self._send(request.method, request.rel_url.raw_path, query, request.headers, body) as answer:
            headers = CIMultiDict(answer.headers)
            for name in _OF_THE_CONNECTION:
                headers.popall(name, None)
            if info.verb != "watch" or answer.status != 200:
                return web.Response(status=answer.status, headers=headers, body=await answer.read())
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await self._copy(answer, response)
            return response

    async def _copy(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        cut = asyncio.Event()
        self._watches.add(cut)
        cutting = asyncio.create_task(cut.wait())
        try:
            while True:
                reading = asyncio.create_task(answer.content.readany())
                try:
                    await asyncio.wait({reading, cutting}, return_when=asyncio.FIRST_COMPLETED)
                    chunk = reading.result() if reading.done() else b""
                finally:
                    reading.cancel()
                if not chunk:
                    break
                await response.write(chunk)
        finally:
            cutting.cancel()
            self._watches.discard(cut)
        await response.write_eof()

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        passed = CIMultiDict(headers)
        for name in _OF_THE_CONNECTION:
            passed.popall(name, None)
        own = await self._upstream.credentials.authorization()
        if own is not None:
            passed.setdefault(hdrs.AUTHORIZATION, own)
        url = URL(f"{self._upstream.server}{path}" + (f"?{query}" if query else ""), encoded=True)
        # aiohttp would send again what it can read again, which is for the client behind this front to decide.
        data = io.BytesIO(body) if body else None
        async with self._session.request(method, url, headers=passed, data=data) as answer:
            yield answer


def _cut(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection; aiohttp finds that when it comes to send the answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _failure(error: ApiError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    return web.json_response(error.status(), status=error.code, headers=headers)
