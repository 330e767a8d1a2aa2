"""What is sent under faults: never a write too late, to somebody else or with fewer checks than asked for; and what is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from kaito.runtime import (
    PODS,
    ApiError,
    Client,
    Fence,
    FencedError,
    Impersonation,
    Material,
    Rest,
    RestConfig,
    RuntimeMetrics,
    SystemClock,
    TlsConfig,
    TransportError,
)
from kaito.runtime.serving.certificates import ServingContext
from kaito.runtime.serving.issuing import renew
from kaito.runtime.transport.credentials import ExecPlugin
from kaito.runtime.transport.pager import list_pages
from support.certificates import self_signed
from support.controlplane import ControlPlane
from support.proxy import Proxy
from support.scripted import pod, scripted
from support.waiting import eventually


@asynccontextmanager
async def calling(config: RestConfig, guard: Callable[[], None] = lambda: None) -> AsyncIterator[Client]:
    rest = Rest(config, RuntimeMetrics())
    try:
        yield Client(rest, fence=guard)
    finally:
        await rest.aclose()


# The fence


async def test_a_write_that_waited_for_a_connection_asks_the_fence_when_it_has_one() -> None:
    release = asyncio.Event()
    writes: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        if request.method != "GET":
            writes.append(request.method)
        else:
            await release.wait()
        return web.json_response(pod("a", 1))

    fence = Fence(SystemClock(), lambda: None, valid_until=float("inf"))
    async with scripted(respond) as script, calling(script.config, fence.check) as client:
        reads = [asyncio.create_task(client.get(PODS, "a", "n")) for _ in range(32)]
        await eventually(lambda: len(script.requests) == 32)
        late = [
            asyncio.create_task(client.create(PODS, pod("a", 1))),
            asyncio.create_task(client.patch(PODS, "a", {"spec": {"x": "y" * (1 << 20)}}, namespace="n")),
            asyncio.create_task(client.delete(PODS, "a", "n")),
        ]
        await asyncio.sleep(0)
        fence.close()
        release.set()
        for write in late:
            with pytest.raises(FencedError):
                await write
        await asyncio.gather(*reads)
        assert await client.get(PODS, "a", "n"), "connections are still of use"
    assert writes == []


async def test_a_write_whose_handshake_took_too_long_is_not_sent(tmp_path: Path) -> None:
    served: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        served.append(request.method)
        return web.json_response(pod("a", 1))

    fence = Fence(SystemClock(), lambda: None, valid_until=float("inf"))
    async with secure(respond) as (url, authority), Proxy(url) as proxy:
        tls = TlsConfig(authority=authority, server_name="localhost")
        async with calling(RestConfig(server=proxy.url, tls=tls), fence.check) as client:
            proxy.freeze()
            write = asyncio.create_task(client.create(PODS, pod("a", 1)))
            await eventually(lambda: proxy.accepted == 1)
            fence.close()
            proxy.thaw()
            with pytest.raises(FencedError):
                await write
    assert served == []


LEADER = """
import asyncio, sys
from kaito.runtime import PODS, Client, Fence, FencedError, Rest, RestConfig, RuntimeMetrics, SystemClock

async def main():
    clock = SystemClock()
    fence = Fence(clock, lambda: None)
    rest = Rest(RestConfig(server=sys.argv[1]), RuntimeMetrics())
    client = Client(rest, fence=fence.check)
    for number in range(1_000_000):
        if number < 5:
            fence.extend(clock.monotonic() + 2.0)
        await client.patch(PODS, "a", {"spec": {}}, namespace="n")

try:
    asyncio.run(main())
except FencedError:
    sys.exit(7)
"""
"""Writes as fast as it can. From its fifth write on its lease is not renewed, and certain for another second."""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no way to freeze a process here")
async def test_a_leader_that_was_frozen_past_its_lease_writes_nothing_when_it_goes_on() -> None:
    writes: list[float] = []

    async def respond(request: web.Request) -> web.Response:
        writes.append(time.monotonic())
        return web.json_response(pod("a", 1))

    async with scripted(respond) as script:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", LEADER, script.url)
        try:
            await eventually(lambda: len(writes) >= 5)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2.5)
            before = len(writes)
            process.send_signal(signal.SIGCONT)
            assert await process.wait() == 7
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert len(writes) == before


# Redirects


async def test_a_write_follows_no_redirect() -> None:
    seen: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path}")
        if request.path.endswith("/moved") or request.method != "GET":
            return web.Response(status=302, headers={"Location": "/api/v1/namespaces/n/pods/a"})
        return web.json_response(pod("a", 1))

    async with scripted(respond) as script, calling(script.config) as client:
        for write in (
            client.create(PODS, pod("a", 1)),
            client.patch(PODS, "a", {}, namespace="n"),
            client.delete(PODS, "a", "n"),
        ):
            with pytest.raises(ApiError, match="redirects to /api/v1/namespaces/n/pods/a"):
                await write
        assert [method.partition(" ")[0] for method in seen] == ["POST", "PATCH", "DELETE"]
        assert (await client.get(PODS, "moved", "n"))["metadata"]["name"] == "a"


# Time


async def test_a_list_may_take_long_as_long_as_it_comes() -> None:
    pieces, pause = 12, 0.1

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [')
        for _ in range(pieces if "steady" in request.query else 1):
            await response.write(b" " * 1000)
            await asyncio.sleep(pause)
        if "steady" not in request.query:
            await asyncio.Event().wait()
        await response.write(b"]}")
        return response

    async with scripted(respond) as script, calling(script.config) as client:
        send = client.rest.send
        answer = await send("GET", "/x", query={"steady": "1"}, timeout=0.5, patient=True)
        assert answer.body.endswith(b"]}"), "twelve pauses of a fifth of the limit"
        with pytest.raises(TransportError):
            await send("GET", "/x", query={"steady": "1"}, timeout=0.5)
        with pytest.raises(TransportError):
            await send("GET", "/x", timeout=0.5, patient=True)


async def test_lists_are_read_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def respond(request: web.Request) -> web.Response:
        return web.json_response({"kind": "PodList", "metadata": {}, "items": []})

    async with scripted(respond) as script, calling(script.config) as client:
        send = Rest.send

        async def noting(self: Rest, *args: Any, **options: Any) -> Any:
            asked.append(options.get("patient"))
            return await send(self, *args, **options)

        monkeypatch.setattr(Rest, "send", noting)
        async for _ in list_pages(client.rest, PODS, PODS.path(), {}):
            pass
    assert asked == [True]


# Who is asked, and in whose name


async def test_a_servers_certificate_is_verified_however_its_scheme_is_written() -> None:
    async def respond(request: web.Request) -> web.Response:
        raise AssertionError("a token was sent to a server that nobody has verified")

    async with secure(respond) as (url, _):
        for server in (url, url.replace("https", "HTTPS"), url.replace("https", "Https")):
            async with calling(RestConfig(server=server)) as client:
                with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get(PODS, "a", "n")


async def test_requests_are_made_in_the_name_that_the_configuration_says(control_plane: ControlPlane) -> None:
    impersonate = Impersonation("alice", groups=("devs", "admins"), extra={"Scopes": ["read", "write"]})
    async with scripted(lambda request: _echo(request)) as script:
        async with calling(replace(script.config, impersonate=impersonate)) as client:
            await client.get(PODS, "a", "n")
        headers = script.requests[0].headers
        assert headers["Impersonate-User"] == "alice"
        assert headers.getall("Impersonate-Group") == ["devs", "admins"]
        assert headers.getall("Impersonate-Extra-scopes") == ["read", "write"]


async def _echo(request: web.Request) -> web.Response:
    return web.json_response(pod("a", 1))


async def test_a_plugins_client_certificate_is_shown_and_the_next_one_after_it(tmp_path: Path) -> None:
    pairs = [self_signed(name, ec.generate_private_key(ec.SECP256R1())) for name in ("first", "second")]
    command = tmp_path / "plugin"
    bodies = [
        {"status": {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}}
        for certificate, key in pairs
    ]
    command.write_text(
        f"#!{sys.executable}\nimport json, pathlib\nruns = pathlib.Path(__file__ + '.runs')\n"
        f"first = not runs.exists()\nruns.touch()\nprint(json.dumps({bodies!r}[0 if first else 1]))\n"
    )
    command.chmod(0o700)
    seen: list[str] = []

    async def respond(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        seen.append(dict(item[0] for item in peer["subject"])["commonName"] if peer else "nobody")
        return web.json_response(pod("a", 1), status=401 if len(seen) == 2 else 200)

    clients = b"".join(certificate for certificate, _ in pairs)
    async with secure(respond, clients=clients) as (url, authority):
        tls = TlsConfig(authority=authority, server_name="localhost")
        plugin = ExecPlugin([str(command)], api_version="client.authentication.k8s.io/v1")
        async with calling(RestConfig(server=url, tls=tls, credentials=plugin)) as client:
            await client.get(PODS, "a", "n")
            await client.get(PODS, "a", "n")
    assert seen == ["first", "first", "second"], "what is refused is fetched anew"


# Closing


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_closed_client_has_no_connection_left_however_the_server_takes_leave(loop: str) -> None:
    """Pooled, in use, given up by a cancellation, and a watch: over TLS, to a network that has stopped to answer."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if "hang" in request.path or "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b" ")
            await asyncio.Event().wait()
        return web.json_response(pod("a", 1))

    async def scenario() -> None:
        async with secure(respond) as (url, authority), Proxy(url) as proxy:
            tls = TlsConfig(authority=authority, server_name="localhost")
            rest = Rest(RestConfig(server=proxy.url, tls=tls), RuntimeMetrics())
            made: list[socket.socket] = []
            original = rest._connections._socket
            rest._connections._socket = lambda info: made.append(original(info)) or made[-1]  # type: ignore[method-assign, func-returns-value]
            client = Client(rest)
            await asyncio.gather(*(client.get(PODS, "a", "n") for _ in range(4)))
            hanging = [asyncio.create_task(client.get(PODS, "hang", "n")) for _ in range(4)]

            async def follow() -> None:
                async with rest.stream("/x", {"watch": "1"}) as stream:
                    while await stream.lines() is not None:
                        pass

            watches = [asyncio.create_task(follow()) for _ in range(4)]
            await asyncio.sleep(0.3)
            proxy.freeze()
            for task in (*hanging[:2], *watches[:2]):
                task.cancel()
            await asyncio.wait((*hanging[:2], *watches[:2]))
            await rest.aclose()
            assert len(made) >= 8
            assert [sock for sock in made if sock.fileno() != -1] == []
            await asyncio.wait((*hanging, *watches))
            for task in (*hanging[2:], *watches[2:]):
                assert isinstance(task.exception(), TransportError)
            with pytest.raises(TransportError, match="is closed"):
                await client.get(PODS, "a", "n")

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())
    else:
        asyncio.run(scenario())
        asyncio.set_event_loop(None)


@asynccontextmanager
async def secure(respond: Any, *, clients: bytes = b"") -> AsyncIterator[tuple[str, Material]]:
    """An HTTPS server and the authority that vouches for it."""
    key = renew(None, ["localhost"], datetime.now(UTC), timedelta(days=1))
    context = ServingContext(clients)
    context.replace(key.certificate, key.key)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context.context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", Material(data=key.authorities)
    finally:
        await runner.cleanup()


# The system's authorities


async def test_the_systems_authorities_are_read_at_the_first_handshake_that_asks_for_them(tmp_path: Path) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    program = """if True:
        import asyncio, ssl, sys
        from kaito.runtime import Client
        import aiohttp

        read, load = [], ssl.SSLContext.load_default_certs
        ssl.SSLContext.load_default_certs = lambda context: read.append("authorities") or load(context)

        async def ask(session):
            async with session.get(sys.argv[1]) as answer:
                read.append(await answer.text())

        async def main():
            async with aiohttp.ClientSession() as session:
                await ask(session)
            async with aiohttp.ClientSession() as session:
                await ask(session)
            print(*read)

        asyncio.run(main())
    """
    authority = tmp_path / "authority.pem"
    async with secure(respond) as (url, material):
        authority.write_bytes(material.read())

        async def run(**environment: str) -> tuple[str, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, url.replace("127.0.0.1", "localhost"),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
            )  # fmt: skip
            out, errors = await process.communicate()
            return out.decode().strip(), errors.decode()

        said, errors = await run(SSL_CERT_FILE=str(authority))
        assert said == "authorities hello hello", errors
        _, errors = await run(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull)
        assert "CERTIFICATE_VERIFY_FAILED" in errors
