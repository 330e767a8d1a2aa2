"""``pods/portforward``: connections to the ports of a pod, each a pair of streams of one SPDY connection."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web

from kaito.devcluster.apiserver.connect import links
from kaito.devcluster.apiserver.connect.backends import PodAddress
from kaito.devcluster.apiserver.connect.spdy import Link, Session, SpdyError, Stream

PROTOCOL: Final = "portforward.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
"""The same within the messages of a WebSocket."""
CONNECT_TIMEOUT = 10.0
_CHUNK: Final = 32 * 1024
_log = logging.getLogger("kaito.devcluster.apiserver")


async def serve(request: web.BaseRequest, pod: PodAddress) -> web.StreamResponse:
    """Until the client closes the connection. Raises BadRequest for a client that speaks neither protocol."""
    if links.upgrade_of(request.headers) == links.WEBSOCKET:
        socket = await links.open_websocket(request, links.choose(request, (TUNNEL,)))
        await PortForward(links.WebSocketLink(socket), pod).run()
        await socket.close()
        return socket
    link = await links.open_spdy(request, links.choose(request, (PROTOCOL,)))
    try:
        await PortForward(link, pod).run()
    finally:
        if request.transport is not None:
            request.transport.close()
    return web.Response()


class PortForward:
    """One client's connection, and the connections to the pod that it asks for."""

    def __init__(self, link: Link, pod: PodAddress) -> None:
        self._pod = pod
        self._session = Session(link, self._opened)
        self._halves: dict[str, Stream] = {}
        """By request, the stream that came first."""
        self._forwards: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        try:
            await self._session.run()
        except (SpdyError, ConnectionError) as error:
            _log.debug("a port-forward to pod %s ended: %s", self._pod.name, error)
        finally:
            for task in self._forwards:
                task.cancel()
            await asyncio.gather(*self._forwards, return_exceptions=True)

    def _opened(self, stream: Stream) -> None:
        request = stream.headers.get("requestid", "")
        other = self._halves.pop(request, None)
        if other is None:
            self._halves[request] = stream
            return
        halves = {half.headers.get("streamtype"): half for half in (stream, other)}
        if halves.keys() != {"data", "error"}:
            raise SpdyError(f"request {request!r} has streams of types {sorted(map(str, halves))}, not data and error")
        forward = self._forward(halves["data"], halves["error"])
        task = asyncio.create_task(forward, name=f"port-forward to {self._pod.name}")
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)
        halves["data"].on_reset = task.cancel

    async def _forward(self, data: Stream, errors: Stream) -> None:
        port = data.headers.get("port", "")
        try:
            problem = await self._carry(data, port)
            if problem:
                await errors.write(f"error forwarding port {port} to pod {self._pod.name}: {problem}".encode())
            data.discard()
            await data.end()
            await errors.end()
        except ConnectionError as error:
            _log.debug("the client of a port-forward went away: %s", error)
        finally:
            self._session.forget(data)
            self._session.forget(errors)

    async def _carry(self, data: Stream, port: str) -> str:
        """What went wrong; ``""`` where nothing did."""
        if not port.isdecimal() or not 0 < int(port) < 65536:
            return "it is no port"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(self._pod.ip, int(port), limit=_CHUNK)
        except OSError as error:  # also TimeoutError
            return f"nothing answers at {self._pod.ip}:{port}: {error.strerror or 'timed out'}"
        try:
            async with asyncio.TaskGroup() as both:
                sending = both.create_task(_send(data, writer))
                await _receive(reader, data)
                # The pod has nothing more to say, and kubectl closes its side only when we do.
                sending.cancel()
        except* OSError as errors:
            # Said to the client, it would end its other connections as well.
            _log.debug("a connection to port %s of pod %s was lost: %s", port, self._pod.name, errors.exceptions[0])
        finally:
            writer.transport.abort()
        return ""


async def _send(data: Stream, writer: asyncio.StreamWriter) -> None:
    while content := await data.read():
        writer.write(content)
        await writer.drain()
    writer.write_eof()


async def _receive(reader: asyncio.StreamReader, data: Stream) -> None:
    while content := await reader.read(_CHUNK):
        await data.write(content)
