"""The process of the model server: a port, a model being loaded, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, final

import uvicorn

from kaito.inference.connection import Connection
from kaito.inference.errors import ConfigError
from kaito.inference.routes import application

if TYPE_CHECKING:
    from kaito.inference.service import Service
    from kaito.inference.settings import Settings

log = logging.getLogger(__name__)

_KEEP_ALIVE = 75
"""Seconds for which an idle connection is kept; load balancers in front keep theirs for 60."""
_BACKLOG = 2048


def listen(settings: Settings) -> socket.socket:
    """The socket of the server, with as many connections as the system allows; raises ConfigError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        return socket.create_server((settings.host, settings.port), backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"--port: cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None


class _Uvicorn(uvicorn.Server):
    """uvicorn that leaves the signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@final
class Server:
    """Serves ``service`` on ``listener``, which it closes in the end, from before the model is loaded."""

    def __init__(self, service: Service, settings: Settings, listener: socket.socket) -> None:
        self._service = service
        self._settings = settings
        self._listener = listener
        self._stop = asyncio.Event()
        self._http = _Uvicorn(
            uvicorn.Config(
                application(service, settings),
                http=partial(Connection, within=settings.body_timeout),  # type: ignore[arg-type]  # it is only called
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=1,
            )
        )

    def stop(self) -> None:
        """Drain and end."""
        self._stop.set()

    async def run(self) -> None:
        """Until :meth:`stop`, or until the model turns out not to load: then the error is raised.

        Cancelled it ends at once.
        """
        log.info("listening on %s:%d", *self._listener.getsockname()[:2])
        serving = asyncio.create_task(self._http.serve([self._listener]), name="http")
        loading = asyncio.create_task(self._service.start(), name="load")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        ending: list[asyncio.Task[Any]] = [loading, stopping]
        try:
            await asyncio.wait((serving, loading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and loading.exception() is None:
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                log.info("stopping: requests that are running may finish")
                ending.append(asyncio.create_task(self._drain(), name="drain"))
                await asyncio.wait((serving, ending[-1]), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            await self._service.engine.aclose()
            self._http.should_exit = True
            await asyncio.wait((serving,))
            self._listener.close()
        for task in (loading, serving):
            if not task.cancelled():
                task.result()

    async def _drain(self) -> None:
        await self._service.drain(self._settings.drain_delay, self._settings.drain_timeout)
