"""Connections to one API server: a pool for each use, certificates that change, sockets that are gone when they are closed.

Certificate files are looked at once a minute, and after a failed handshake. New ones are for new connections: an old
connection goes on until what uses it has ended. Files that do not load leave the old ones in use.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, final

from kaito.runtime.clock import Clock
from kaito.runtime.errors import ConfigError, TransportError
from kaito.runtime.log import get_logger
from kaito.runtime.transport.config import RestConfig
from kaito.runtime.transport.http import aiohttp

CLOSE_TIMEOUT = 5.0
"""Seconds that closing waits for the last connection to be gone."""
TLS_PERIOD = 60.0
"""Seconds between two looks at the certificate files."""

_MOMENT = 0.005

_log = get_logger("connections")


class Pool(enum.StrEnum):
    API = "api"
    WATCH = "watch"
    LEASE = "lease"
    REVIEW = "review"


_POOL_LIMITS = {Pool.API: 32, Pool.WATCH: 0, Pool.LEASE: 2, Pool.REVIEW: 4}


class _Session:
    """A pool of connections that closes when it was replaced and its last request has ended."""

    __slots__ = ("client", "retired", "users")

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.users = 0
        self.retired = False


@final
class Connections:
    """Sessions of the HTTP library, one for each pool that is used."""

    def __init__(self, config: RestConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._sessions: dict[Pool, _Session] = {}
        self._retired: set[_Session] = set()
        self._tls: ssl.SSLContext | None = None
        self._tls_fingerprint = ""
        self._tls_pair = b""
        self._tls_checked = float("-inf")
        self._closed = False
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    @asynccontextmanager
    async def use(self, pool: Pool) -> AsyncIterator[aiohttp.ClientSession]:
        """The session of ``pool``, which stays open for as long as the block. Raises TransportError, ConfigError."""
        if self._closed:
            raise TransportError(f"the client of {self._config.server} is closed")
        await self._reload_tls()
        session = self._sessions.get(pool)
        if session is None:
            session = self._sessions[pool] = _Session(self._connect(pool))
        session.users += 1
        try:
            yield session.client
        finally:
            session.users -= 1
            if session.retired and not session.users:
                self._retired.discard(session)
                await session.client.close()

    async def _reload_tls(self) -> None:
        """Let new connections use what the certificate files hold. Raises ConfigError where none have ever loaded."""
        now = self._clock.monotonic()
        pair = self._config.credentials.certificate
        current = now - self._tls_checked < TLS_PERIOD and pair == self._tls_pair
        if current or not self._config.server.startswith("https:"):
            return
        self._tls_pair = pair
        try:
            fingerprint = self._config.tls.fingerprint(pair)
            if fingerprint != self._tls_fingerprint:
                self._tls = self._config.tls.context(pair)
        except ConfigError as error:
            if self._tls is None:
                raise
            self._tls_checked = now
            _log.warning("kept the old TLS certificates for the API server", error=str(error))
            return
        self._tls_checked = now
        if fingerprint == self._tls_fingerprint:
            return
        self._tls_fingerprint = fingerprint
        # Replaced before anything is awaited: nobody may be given a session that is being closed.
        outdated, self._sessions = list(self._sessions.values()), {}
        for session in outdated:
            session.retired = True
        self._retired.update(outdated)
        for session in outdated:
            if not session.users:
                self._retired.discard(session)
                await session.client.close()

    def suspect(self, error: BaseException) -> None:
        """After a failed handshake the certificate files are looked at again at once: they may be the reason."""
        if isinstance(error, aiohttp.ClientSSLError):
            self._tls_checked = float("-inf")

    def _connect(self, pool: Pool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._tls if self._tls is not None else True,
            limit=_POOL_LIMITS[pool],
            keepalive_timeout=30.0,  # shorter than the API server's, so that it is never the first to close
            socket_factory=self._socket,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            proxy=self._config.proxy,
            read_bufsize=1 << 18,
            headers=[
                ("User-Agent", self._config.user_agent),
                ("Accept-Encoding", "identity"),
                *(self._config.impersonate.headers() if self._config.impersonate else ()),
            ],
            skip_auto_headers=("Content-Type",),
        )
        # aiohttp sends a PUT or DELETE again by itself when a kept-alive connection turns out to be closed, although the
        # first one may have been carried out. It has no public switch for that.
        session._retry_connection = False
        return session

    def _socket(self, info: Any) -> socket.socket:
        sock = _socket(info)
        self._sockets.add(sock)
        return sock

    async def aclose(self) -> None:
        """Close all connections and return when they are gone; calls that are still running fail, as do later ones."""
        self._closed = True
        # Below the HTTP library, which forgets the answers that are being read on what it closes: their readers would wait
        # for ever. A connection that was given up before may still be saying goodbye to a server that does not answer.
        for sock in self._open_sockets():
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        await self._sockets_closed(CLOSE_TIMEOUT / 2)
        sessions = [*self._sessions.values(), *self._retired]
        self._sessions.clear()
        self._retired.clear()
        for session in sessions:
            await session.client.close()
        await self._sockets_closed(CLOSE_TIMEOUT / 2)
        if left := self._open_sockets():
            _log.warning("connections to the API server did not close", left=len(left))

    def _open_sockets(self) -> list[socket.socket]:
        return [sock for sock in self._sockets if sock.fileno() != -1]

    async def _sockets_closed(self, within: float) -> None:
        for _ in range(round(within / _MOMENT)):
            if not self._open_sockets():
                return
            await asyncio.sleep(_MOMENT)


def _socket(info: Any) -> socket.socket:
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    return sock
