"""The subresource ``proxy``: HTTP requests and WebSockets, passed on to a pod.

Looser than kube-apiserver: links within HTML pages are not rewritten, so pages should use relative ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from kaito.devcluster.apiserver.connect import links
from kaito.runtime import ServiceUnavailable

CONNECT_TIMEOUT = 10.0
_CHUNK: Final = 64 * 1024
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
_KEPT_BACK: Final = ("authorization", "impersonate-", "host", "sec-websocket-")
"""Beginnings of the names of what is meant for the API server, or made anew."""
_REDIRECTS: Final = frozenset({201, 301, 302, 303, 307, 308})


class Proxy:
    """Holds the connections to what it proxies."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def serve(self, request: web.BaseRequest, origin: str, prefix: str, path: str) -> web.StreamResponse:
        """Pass ``request`` on to ``path`` of ``origin``. ``prefix`` is where the client finds the root of that.

        Raises ServiceUnavailable where nothing answers.
        """
        if not path and request.method in ("GET", "HEAD"):
            # Relative links of the page would lead beside it.
            query = f"?{request.query_string}" if request.query_string else ""
            return web.Response(status=301, headers={hdrs.LOCATION: f"{prefix}/{query}"})
        raw_query = request.path_qs.partition("?")[2]
        url = URL(f"{origin}{path or '/'}{'?' + raw_query if raw_query else ''}", encoded=True)
        headers = _forwarded(request, prefix)
        try:
            if links.upgrade_of(request.headers) == links.WEBSOCKET:
                return await self._websocket(request, url, headers)
            return await self._http(request, url, headers, prefix)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise ServiceUnavailable(f"error trying to reach service: {error or 'timed out'}") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0, ssl=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            )
        return self._session

    async def _http(
        self, request: web.BaseRequest, url: URL, headers: CIMultiDict[str], prefix: str
    ) -> web.StreamResponse:
        data = request.content.iter_any() if request.body_exists else None
        client = self._client()
        async with client.request(request.method, url, headers=headers, data=data, allow_redirects=False) as answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            if answer.status in _REDIRECTS and hdrs.LOCATION in answer.headers:
                response.headers[hdrs.LOCATION] = moved(answer.headers[hdrs.LOCATION], url, prefix)
            await response.prepare(request)
            with suppress(ConnectionResetError):
                async for chunk in _body(answer):
                    await response.write(chunk)
                await response.write_eof()
            return response

    async def _websocket(self, request: web.BaseRequest, url: URL, headers: CIMultiDict[str]) -> web.StreamResponse:
        offered = [
            item.strip()
            for value in request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
            for item in value.split(",")
        ]
        client = self._client()
        try:
            there = await client.ws_connect(url, protocols=offered, headers=headers, max_msg_size=0, autoclose=True)
        except aiohttp.WSServerHandshakeError as error:
            return web.Response(status=error.status, text=error.message)
        async with there:
            here = web.WebSocketResponse(protocols=(there.protocol,) if there.protocol else (), max_msg_size=0)
            await here.prepare(request)
            both = {asyncio.create_task(_pass_on(here, there)), asyncio.create_task(_pass_on(there, here))}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
            code = there.close_code or here.close_code or aiohttp.WSCloseCode.OK
            await here.close(code=code)
            return here


def _forwarded(request: web.BaseRequest, prefix: str) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in _HOP_BY_HOP and not lower.startswith(_KEPT_BACK):
            headers.add(name, value)
    headers["X-Forwarded-Host"] = request.host
    headers["X-Forwarded-Proto"] = request.scheme
    headers["X-Forwarded-Uri"] = f"{prefix}{request.path_qs.removeprefix(prefix)}"
    peer = request.remote
    if peer:
        before = request.headers.get("X-Forwarded-For")
        headers["X-Forwarded-For"] = f"{before}, {peer}" if before else peer
    return headers


def moved(location: str, url: URL, prefix: str) -> str:
    """A redirect of the pod's own, as its client has to follow it; one to elsewhere as it is."""
    target = URL(location, encoded=True)
    if target.is_absolute() and target.origin() != url.origin():
        return location
    if not target.is_absolute() and not location.startswith("/"):
        return location
    query = f"?{target.raw_query_string}" if target.raw_query_string else ""
    fragment = f"#{target.raw_fragment}" if target.raw_fragment else ""
    return f"{prefix}{target.raw_path}{query}{fragment}"


async def _body(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for chunk in answer.content.iter_any():
        yield chunk


async def _pass_on(source: Any, target: Any) -> None:
    """Messages of one WebSocket to another, until the first is closed or the second is gone."""
    with suppress(ConnectionResetError):
        async for message in source:
            if message.type is aiohttp.WSMsgType.TEXT:
                await target.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await target.send_bytes(message.data)
