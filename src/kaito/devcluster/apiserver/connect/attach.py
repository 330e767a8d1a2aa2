"""``pods/attach``: the standard streams of a container's process, over WebSocket or SPDY."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

import aiohttp
import msgspec
from aiohttp import web

from kaito.devcluster.apiserver.connect import links
from kaito.devcluster.apiserver.connect.spdy import Link, Session, SpdyError, Stream
from kaito.devcluster.apiserver.store import encode

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
STREAMS_TIMEOUT = 30.0
"""Seconds in which a SPDY client has to open its streams."""
_SUCCESS: Final = encode({"metadata": {}, "status": "Success"})
_CLOSE: Final = 255
"""The channel of v5 on which a client says that another ends."""
_log = logging.getLogger("kaito.devcluster.apiserver")


class Channel(IntEnum):
    """The standard streams, and what goes beside them."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """``core/v1 PodAttachOptions``; ``container`` is one of the pod's."""

    container: str
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    tty: bool = False


class Attachment(Protocol):
    """One client's hold on the streams of a running container."""

    def output(self) -> AsyncGenerator[tuple[bool, bytes], None]:
        """Whether it is from standard error, and what the process writes, from now until its end. Closed by who reads."""
        ...

    async def write(self, data: bytes) -> None:
        """To the standard input; nothing happens where the process has ended."""
        ...

    def close_input(self) -> None:
        """The client's input has ended, or the client has gone: with ``stdinOnce`` so does the process's input."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Of the terminal; nothing happens without one."""
        ...


AttachProvider = Callable[[Mapping[str, Any], AttachOptions], Attachment]
"""Attaches to a container of a pod. Raises ApiError where there is no process, or no such stream."""


class _Size(msgspec.Struct):
    """``remotecommand.TerminalSize``."""

    width: int = msgspec.field(name="Width")
    height: int = msgspec.field(name="Height")


Take = Callable[[Channel, bytes], Awaitable[None]]


class Remote(Protocol):
    """The client's end."""

    async def receive(self, take: Take) -> None:
        """Give what comes from the client to ``take`` until it goes away; ``b""`` for the end of a channel."""
        ...

    async def send(self, channel: Channel, data: bytes) -> None:
        """Raises ConnectionError."""
        ...


async def serve(request: web.BaseRequest, options: AttachOptions, attachment: Attachment) -> web.StreamResponse:
    """Until the process ends or the client goes away. Raises BadRequest for a client that speaks no protocol of ours."""
    if links.upgrade_of(request.headers) == links.WEBSOCKET:
        protocol = links.choose(request, (V5, V4))
        socket = await links.open_websocket(request, protocol)
        await _carry(_WebSocketRemote(socket), options, attachment)
        await socket.close()
        return socket
    link = await links.open_spdy(request, links.choose(request, (V4,)))
    try:
        await _over_spdy(link, options, attachment)
    finally:
        if request.transport is not None:
            request.transport.close()
    return web.Response()


async def _carry(remote: Remote, options: AttachOptions, attachment: Attachment) -> None:
    async def take(channel: Channel, data: bytes) -> None:
        if channel is Channel.STDIN and data:
            await attachment.write(data)
        elif channel is Channel.STDIN:
            attachment.close_input()
        elif channel is Channel.RESIZE and data:
            size = msgspec.json.decode(data, type=_Size)
            attachment.resize(size.width, size.height)

    incoming = asyncio.create_task(remote.receive(take), name="input of an attach")
    outgoing = asyncio.create_task(_output(remote, options, attachment), name="output of an attach")
    try:
        await asyncio.wait({incoming, outgoing}, return_when=asyncio.FIRST_COMPLETED)
        if outgoing.done():
            await outgoing
            await remote.send(Channel.ERROR, _SUCCESS)
    except ConnectionError as error:
        _log.debug("the client of an attach went away: %s", error)
    finally:
        incoming.cancel()
        outgoing.cancel()
        ended = await asyncio.gather(incoming, outgoing, return_exceptions=True)
        if options.stdin:
            attachment.close_input()
        for outcome in ended:
            if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionError | msgspec.MsgspecError):
                raise outcome


async def _output(remote: Remote, options: AttachOptions, attachment: Attachment) -> None:
    async with aclosing(attachment.output()) as chunks:
        async for is_stderr, data in chunks:
            if options.stderr if is_stderr else options.stdout:
                await remote.send(Channel.STDERR if is_stderr else Channel.STDOUT, data)


class _WebSocketRemote:
    """A byte that names the channel comes before the data of each message."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def receive(self, take: Take) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            number, data = message.data[0], bytes(message.data[1:])
            if number == _CLOSE and data:
                number, data = data[0], b""
            elif not data:
                continue
            if number in (Channel.STDIN, Channel.RESIZE):
                await take(Channel(number), data)

    async def send(self, channel: Channel, data: bytes) -> None:
        await self._socket.send_bytes(bytes([channel]) + data)


class _SpdyRemote:
    """Each channel is a stream."""

    def __init__(self, streams: Mapping[str, Stream], gone: asyncio.Event) -> None:
        self._streams = streams
        self._gone = gone

    async def receive(self, take: Take) -> None:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(self._read(channel, take)) for channel in (Channel.STDIN, Channel.RESIZE)]
            await self._gone.wait()
            for task in reads:
                task.cancel()

    async def _read(self, channel: Channel, take: Take) -> None:
        stream = self._streams.get(channel.name.lower())
        if stream is not None:
            while data := await stream.read():
                await take(channel, data)
            await take(channel, b"")

    async def send(self, channel: Channel, data: bytes) -> None:
        stream = self._streams.get(channel.name.lower())
        if stream is not None:
            await stream.write(data)


async def _over_spdy(link: Link, options: AttachOptions, attachment: Attachment) -> None:
    wanted = {"error"} | {name for name in ("stdin", "stdout", "stderr") if getattr(options, name)}
    if options.tty:
        wanted |= {"resize"}
        wanted -= {"stderr"}
    streams: dict[str, Stream] = {}
    complete, gone = asyncio.Event(), asyncio.Event()

    def opened(stream: Stream) -> None:
        streams[stream.headers.get("streamtype", "")] = stream
        if wanted <= streams.keys():
            complete.set()

    async def read() -> None:
        try:
            await session.run()
        except (SpdyError, ConnectionError) as error:
            _log.debug("the connection of an attach ended: %s", error)
        finally:
            gone.set()
            complete.set()

    session = Session(link, opened)
    reading = asyncio.create_task(read(), name="connection of an attach")
    try:
        async with asyncio.timeout(STREAMS_TIMEOUT):
            await complete.wait()
        if not gone.is_set():
            await _carry(_SpdyRemote(streams, gone), options, attachment)
            for stream in streams.values():
                await stream.end()
    except (TimeoutError, ConnectionError) as error:
        _log.debug("the client of an attach went away: %s", error)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
