"""Sockets: one that listens for each port of a Service, and two for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from kaito.devcluster.kubeproxy.routes import Address, Route

CONNECT_TIMEOUT = 5.0
"""Seconds after which a backend that does not answer is given up."""
_CHUNK: Final = 64 * 1024
_BACKLOG: Final = 512


class Connections:
    """The connections that are open now. They outlive what has accepted them: a Service that changes cuts nobody off."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cut them all."""
        await asyncio.sleep(0)  # each has begun, and closes its socket
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Balancer:
    """Picks backends in turn, or for a client the one that it had."""

    def __init__(self, route: Route, clock: Callable[[], float]) -> None:
        self.route = route
        self._clock = clock
        self._turn = 0
        self._last: dict[str, tuple[Address, float]] = {}
        """The backend of each client, and when it had it last."""

    def candidates(self, client: str) -> list[Address]:
        """All backends, those to be tried first in front."""
        backends = self.route.backends
        start = self._turn % len(backends)
        self._turn += 1
        in_turn = [*backends[start:], *backends[:start]]
        held, since = self._last.get(client, (None, 0.0))
        if held in in_turn and self._clock() - since < self.route.affinity:
            in_turn.sort(key=lambda backend: backend != held)
        return in_turn

    def took(self, client: str, backend: Address) -> None:
        if self.route.affinity:
            self._last[client] = (backend, self._clock())


class Listener:
    """Accepts connections at one address until it is closed.

    Sockets are accepted one by one, for ``asyncio.Server`` may lose those that come in while it is closed.
    """

    def __init__(self, frontend: Address, route: Route, connections: Connections) -> None:
        """Raises OSError where the address cannot be had."""
        self.frontend = frontend
        self._loop = asyncio.get_running_loop()
        self._balancer = Balancer(route, self._loop.time)
        self._connections = connections
        self._socket = socket.create_server(frontend, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def forward_to(self, route: Route) -> None:
        self._balancer.route = route

    def _accept(self) -> None:
        try:
            connection, peer = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        carrying = self._carry(connection, peer[0])
        self._connections.add(self._loop.create_task(carrying, name=f"connection to {self.frontend}"))

    async def _carry(self, connection: socket.socket, client: str) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=_CHUNK)
        with contextlib.closing(writer.transport):
            for backend in self._balancer.candidates(client):
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        there = await asyncio.open_connection(*backend, limit=_CHUNK)
                except OSError:  # also TimeoutError
                    continue
                self._balancer.took(client, backend)
                await relay((reader, writer), there)
                return
            writer.transport.abort()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def relay(here: Stream, there: Stream) -> None:
    """Pass bytes on both ways until both ends have finished, or one is gone. Closes ``there``."""
    transports = here[1].transport, there[1].transport
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(here[0], there[1]))
            both.create_task(_pump(there[0], here[1]))
    except* OSError:
        for transport in transports:
            transport.abort()
    finally:
        transports[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
