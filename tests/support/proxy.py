"""A TCP proxy that makes the network misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

_CHUNK = 1 << 16


class Proxy:
    """Forwards connections to ``target`` (a URL); what passes can be frozen, slowed or cut. TLS passes through unread."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._scheme = parts.scheme
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay: Callable[[], float] = lambda: 0.0
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        """Connections so far."""
        self.sent: Callable[[bytes], None] = lambda data: None
        """Told of every piece of data that a client sends."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.thaw()
        self.cut()
        for task in tuple(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def freeze(self) -> None:
        """Nothing passes from now on, and no connection ends: a half-open network."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def slow(self, delay: Callable[[], float]) -> None:
        """Hold every piece of data back for ``delay()`` seconds."""
        self._delay = delay

    def cut(self) -> None:
        """Break all connections."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        self._writers.add(writer)
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            self._connections.discard(task)
            return
        self._writers.add(upstream)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream, self.sent))
                group.create_task(self._pump(upstream_reader, writer, lambda data: None))
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one side broke, which is what this proxy is for
        finally:
            for side in (writer, upstream):
                self._writers.discard(side)
                side.transport.abort()
            self._connections.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observe: Callable[[bytes], None]
    ) -> None:
        while data := await reader.read(_CHUNK):
            observe(data)
            await self._flowing.wait()
            if delay := self._delay():
                await asyncio.sleep(delay)
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
        raise ConnectionResetError
