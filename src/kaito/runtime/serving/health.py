"""``/healthz``, ``/readyz``, ``/metrics``, ``/debug/tasks``: the process's own small HTTP servers."""

from __future__ import annotations

import asyncio
import inspect
import io
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, final

import lazy_loader

from kaito.runtime.errors import ConfigError

if TYPE_CHECKING:
    from aiohttp import web
    from prometheus_client import CollectorRegistry
else:
    web = lazy_loader.load("aiohttp.web", suppress_warning=True)

LINGER = 1.0
"""Seconds for which the rest of a request that was refused is read, so that its sender gets to see the answer."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds that stopping gives to requests in progress."""

Check = Callable[[], Awaitable[None] | None]
"""Returns where all is well, raises where not."""


@final
class Checks:
    """Named checks behind one path; the text is that of Kubernetes' own components.

    ``?verbose`` lists every check, ``?exclude=name`` leaves one out, ``/path/name`` asks for one. Reasons are logged, not
    told.
    """

    def __init__(self, path: str, on_failure: Callable[[str, Exception], None]) -> None:
        self.path = path
        self._checks: dict[str, Check] = {"ping": lambda: None}
        self._on_failure = on_failure

    def add(self, name: str, check: Check) -> None:
        if name in self._checks:
            raise ConfigError(f"{self.path} already has a check {name!r}")
        self._checks[name] = check

    async def handle(self, request: web.Request) -> web.Response:
        only = request.match_info.get("check")
        if only is not None and only not in self._checks:
            return web.Response(status=404, text=f"no check named {only}\n")
        excluded = set(request.query.getall("exclude", []))
        chosen = [only] if only else [name for name in self._checks if name not in excluded]
        lines, healthy = [], True
        for name in chosen:
            try:
                outcome = self._checks[name]()
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception as error:
                healthy = False
                lines.append(f"[-]{name} failed: reason withheld")
                self._on_failure(name, error)
            else:
                lines.append(f"[+]{name} ok")
        lines += [f"[+]{name} excluded: ok" for name in sorted(excluded & self._checks.keys())]
        unknown = sorted(excluded - self._checks.keys())
        if unknown:
            lines.append(f"warn: some health checks cannot be excluded: no matches for {', '.join(map(repr, unknown))}")
        title = self.path.strip("/")
        if not healthy:
            return web.Response(status=500, text="\n".join([*lines, f"{title} check failed", ""]))
        if "verbose" in request.query:
            return web.Response(text="\n".join([*lines, f"{title} check passed", ""]))
        return web.Response(text="ok")


async def metrics_response(registry: CollectorRegistry, request: web.Request) -> web.Response:
    from prometheus_client.exposition import choose_encoder

    encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encoder(registry), headers={"Content-Type": content_type})


async def tasks_response(_request: web.Request) -> web.Response:
    """Every task with its stack: what a hanging process is waiting for."""
    out = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        task.print_stack(file=out)
        out.write("\n")
    return web.Response(text=out.getvalue())


def _loopback(address: str) -> bool:
    # An IPv4 client of a socket for both has a mapped address.
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


def local_only(handler: Handler) -> Handler:
    """``handler`` for clients on this machine, or that ``kubectl port-forward`` or ``exec`` brings there; 403 for others."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        if not peer or not _loopback(str(peer[0])):
            return web.Response(status=403, text="on the loopback address only: use kubectl port-forward\n")
        return await handler(request)

    return guarded


@final
class HttpServer:
    """One listener with a few routes, all of one method."""

    def __init__(
        self,
        address: str,
        routes: Mapping[str, Handler],
        *,
        method: str = "GET",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``address`` is ``host:port`` or ``:port`` for all interfaces; port 0 takes a free one."""
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdigit():
            raise ConfigError(f"{address!r} is not an address: use host:port or :port")
        self._host = host.strip("[]") or None
        self._port = int(port)
        self._tls = tls
        app = web.Application()
        for path, handler in routes.items():
            app.router.add_route(method, path, handler)
            if method == "GET":
                app.router.add_route("HEAD", path, handler)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=90.0,
            lingering_time=LINGER,
            max_field_size=1 << 16,
            # Whoever has left needs no answer, and a stopping process does not wait for one.
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be had."""
        await self._runner.setup()
        try:
            if self._host is None:
                # One socket, so that there is one port, also where the system chooses it.
                site: web.BaseSite = web.SockSite(self._runner, _everywhere(self._port), ssl_context=self._tls)
            else:
                site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"cannot listen on {self._host or '*'}:{self._port}: {error.strerror}") from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()


def _everywhere(port: int) -> socket.socket:
    """A listener for IPv4, and for IPv6 where there is any."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(("", port), backlog=128)
