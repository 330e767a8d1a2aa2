"""Taking over the connection of a request: as a WebSocket, or as plain bytes in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

import aiohttp
from aiohttp import hdrs, web

from kaito.devcluster.apiserver.connect.spdy import Link
from kaito.runtime import BadRequest

SPDY: Final = "spdy/3.1"
WEBSOCKET: Final = "websocket"
_PROTOCOLS: Final = "X-Stream-Protocol-Version"
_CHUNK: Final = 64 * 1024


def upgrade_of(headers: Mapping[str, str]) -> str:
    """What a request asks to become, in lower case; ``""`` for nothing."""
    connection = headers.get(hdrs.CONNECTION, "").lower()
    return headers.get(hdrs.UPGRADE, "").lower() if "upgrade" in connection else ""


def choose(request: web.BaseRequest, served: Iterable[str]) -> str:
    """The first protocol of ``served`` that the client offers. Raises BadRequest where there is none."""
    name = hdrs.SEC_WEBSOCKET_PROTOCOL if upgrade_of(request.headers) == WEBSOCKET else _PROTOCOLS
    offered = [item.strip() for value in request.headers.getall(name, []) for item in value.split(",")]
    chosen = next((protocol for protocol in served if protocol in offered), None)
    if chosen is None:
        raise BadRequest(
            f"unable to upgrade: this server speaks {', '.join(served)}; the client offers {', '.join(offered) or 'nothing'}"
        )
    return chosen


class WebSocketLink:
    """The bytes of the binary messages of a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket

    async def receive(self) -> bytes:
        while True:
            message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY and message.data:
                return bytes(message.data)
            if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                return b""

    async def send(self, data: bytes) -> None:
        await self.socket.send_bytes(data)


class RawLink:
    """The connection itself, from the answer 101 on."""

    def __init__(self, request: web.BaseRequest) -> None:
        transport, before = request.transport, request.protocol
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self.transport = transport
        loop = asyncio.get_running_loop()
        self._reader = asyncio.StreamReader(_CHUNK, loop)
        protocol = _After(self._reader, before, loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)

    async def receive(self) -> bytes:
        return await self._reader.read(_CHUNK)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class _After(asyncio.StreamReaderProtocol):
    """What is told of the connection instead of ``before``, which learns of its end all the same."""

    def __init__(self, reader: asyncio.StreamReader, before: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._before = before

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._before.connection_lost(exc)


async def open_websocket(request: web.BaseRequest, protocol: str) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=(protocol,), max_msg_size=0)
    await socket.prepare(request)
    return socket


async def open_spdy(request: web.BaseRequest, protocol: str) -> Link:
    link = RawLink(request)
    head = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n{_PROTOCOLS}: {protocol}\r\n\r\n"
    await link.send(head.encode())
    return link
