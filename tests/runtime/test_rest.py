"""One client's HTTP: what is sent, how often, with which credentials and certificates, and what comes of broken answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from kaito.runtime import (
    CONFIG_MAPS,
    PODS,
    Client,
    ConfigError,
    DecodeError,
    FencedError,
    Material,
    NotFound,
    OutcomeUnknown,
    Rest,
    RestConfig,
    RuntimeMetrics,
    ServiceUnavailable,
    TlsConfig,
    TooManyRequests,
    TransportError,
    Unauthorized,
    load_config,
)
from kaito.runtime.backoff import retry_after
from kaito.runtime.cache.informer import Informer
from kaito.runtime.cache.reflector import ReflectorMachine
from kaito.runtime.cache.scope import Scope
from kaito.runtime.serving.certificates import ServingContext
from kaito.runtime.serving.issuing import KeyMaterial, renew
from kaito.runtime.tasks import cancel_and_wait
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.credentials import TokenFile
from kaito.runtime.transport.flowcontrol import TokenBucket
from kaito.runtime.transport.rest import Stream
from support.certificates import self_signed
from support.scripted import Respond, event, listing, pod, scripted, status, stream
from support.waiting import eventually


class JumpyClock:
    """The wall clock shows what a test sets; durations are measured apart from it."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.seconds = 1000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds


@asynccontextmanager
async def calling(
    respond: Respond, *, clock: JumpyClock | None = None, **config: Any
) -> AsyncIterator[tuple[Client, Rest, list[web.BaseRequest]]]:
    async with scripted(respond) as script:
        rest = Rest(RestConfig(server=script.url, **config), RuntimeMetrics(), clock=clock)
        try:
            yield Client(rest), rest, script.requests
        finally:
            await rest.aclose()


def material(name: str = "localhost") -> KeyMaterial:
    return renew(None, [name], datetime.now(UTC), timedelta(days=1))


class SecureServer:
    """Answers every request with a pod named after the client's certificate; its own certificate can be replaced."""

    def __init__(self, context: ServingContext) -> None:
        self.context = context
        self.port = 0
        self.connections: set[Any] = set()
        self.watched = asyncio.Event()

    async def respond(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        self.connections.add(transport)
        peer = transport.get_extra_info("peercert")
        name = dict(item[0] for item in peer["subject"])["commonName"] if peer else "anonymous"
        if "watch" in request.query:
            self.watched.set()
            return await stream(request, event("ADDED", pod(name, 5)))
        return web.json_response(pod(name, 1))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        for transport in self.connections:
            transport.abort()
        self.connections.clear()


@asynccontextmanager
async def secure(certificate: KeyMaterial, *, clients: bytes = b"") -> AsyncIterator[SecureServer]:
    context = ServingContext(clients)
    context.replace(certificate.certificate, certificate.key)
    server = SecureServer(context)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context.context).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()


async def drained(watch: Stream) -> None:
    while await watch.lines() is not None:
        pass


async def watched(rest: Rest) -> None:
    async with rest.stream("/x", {}) as watch:
        await drained(watch)


async def who(client: Client) -> str:
    found = await client.get(PODS, "x", "n")
    return str(found["metadata"]["name"])


# Certificates


async def test_a_new_authority_on_disk_is_trusted_after_the_first_handshake_that_fails(tmp_path: Path) -> None:
    """The server's certificate and the file of authorities change while the process runs."""
    old, new = material(), material()
    bundle = tmp_path / "ca.crt"
    bundle.write_bytes(old.authorities)
    tls = TlsConfig(authority=Material(file=bundle), server_name="localhost")
    async with secure(old) as server:
        rest = Rest(RestConfig(server=server.url, tls=tls), RuntimeMetrics(), clock=JumpyClock())
        client = Client(rest)
        assert await who(client) == "anonymous"
        server.context.replace(new.certificate, new.key)
        bundle.write_bytes(new.authorities)
        server.hang_up()
        errors: list[str] = []
        for _ in range(3):  # the first may meet the connection that was just closed
            try:
                await client.create(PODS, pod("a", 1))
                break
            except TransportError as error:
                errors.append(str(error))
        assert len(errors) < 3
        assert "CERTIFICATE_VERIFY_FAILED" in errors[-1]
        await rest.aclose()


async def test_a_new_client_certificate_is_shown_after_a_minute_and_running_watches_go_on(tmp_path: Path) -> None:
    first, second = (
        self_signed("first", ec.generate_private_key(ec.SECP256R1())),
        self_signed("second", ec.generate_private_key(ec.SECP256R1())),
    )
    clock, serving = JumpyClock(), material()
    files = {name: tmp_path / name for name in ("tls.crt", "tls.key")}

    def publish(pair: tuple[bytes, bytes]) -> None:
        for path, content in zip(files.values(), pair, strict=True):
            path.write_bytes(content)

    publish(first)
    tls = TlsConfig(
        authority=Material(data=serving.authorities),
        certificate=Material(file=files["tls.crt"]),
        key=Material(file=files["tls.key"]),
        server_name="localhost",
    )
    async with secure(serving, clients=first[0] + second[0]) as server:
        rest = Rest(RestConfig(server=server.url, tls=tls), RuntimeMetrics(), clock=clock)
        client = Client(rest)
        assert await who(client) == "first"
        async with rest.stream("/api/v1/pods", {"watch": "true"}) as watch:
            assert await watch.lines()
            publish(second)
            clock.seconds += 59.0
            assert await who(client) == "first"
            clock.seconds += 1.0
            assert await who(client) == "second"
            files["tls.key"].write_bytes(b"half a ke")
            clock.seconds += 60.0
            assert await who(client) == "second", "a pair that does not load leaves the old one in use"
            files["tls.key"].unlink()
            clock.seconds += 60.0
            assert await who(client) == "second"
            publish(first)
            clock.seconds += 60.0
            assert await asyncio.gather(*(who(client) for _ in range(8))) == ["first"] * 8
            server.hang_up()
            with pytest.raises(TransportError):
                await drained(watch)
        await rest.aclose()


async def test_a_certificate_that_never_loaded_is_an_error_until_it_does(tmp_path: Path) -> None:
    serving = material()
    bundle = tmp_path / "ca.crt"
    tls = TlsConfig(authority=Material(file=bundle), server_name="localhost")
    async with secure(serving) as server:
        rest = Rest(RestConfig(server=server.url, tls=tls), RuntimeMetrics(), clock=JumpyClock())
        with pytest.raises(ConfigError, match="cannot read"):
            await who(Client(rest))
        bundle.write_bytes(serving.authorities)
        assert await who(Client(rest)) == "anonymous"
        await rest.aclose()


async def test_the_servers_name_is_the_one_that_the_kubeconfig_gives(tmp_path: Path) -> None:
    serving = material("api.example.com")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(serving.authorities)
    async with secure(serving) as server:
        for name, trusted in (("api.example.com", True), ("other.example.com", False)):
            kubeconfig = tmp_path / "config"
            kubeconfig.write_text(
                f"{{current-context: c, contexts: [{{name: c, context: {{cluster: k}}}}], clusters: [{{name: k, cluster: "
                f"{{server: '{server.url}', certificate-authority: ca.crt, tls-server-name: {name}}}}}]}}"
            )
            rest = Rest(load_config(kubeconfig), RuntimeMetrics())
            if trusted:
                assert await who(Client(rest)) == "anonymous"
            else:
                with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
                    await who(Client(rest))
            await rest.aclose()


async def test_a_context_is_made_only_where_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, clock = material(), JumpyClock()
    made: list[ssl.SSLContext] = []
    original = TlsConfig.context

    def counting(config: TlsConfig, pair: bytes) -> ssl.SSLContext:
        made.append(original(config, pair))
        return made[-1]

    monkeypatch.setattr(TlsConfig, "context", counting)
    tls = TlsConfig(authority=Material(data=serving.authorities), server_name="localhost")
    async with secure(serving) as server:
        rest = Rest(RestConfig(server=server.url, tls=tls), RuntimeMetrics(), clock=clock)
        for _ in range(3):
            await who(Client(rest))
            clock.seconds += 61.0
        await rest.aclose()
    assert len(made) == 1


# Credentials


async def test_a_rotated_token_reaches_a_running_client(tmp_path: Path) -> None:
    """Pitfall 89: after a refusal at once, and after a minute without one; whatever the wall clock says meanwhile."""
    token, clock = tmp_path / "token", JumpyClock()
    token.write_text("first\n")
    accepted = {"Bearer first"}
    seen: list[str] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        if seen[-1] not in accepted:
            return status(401, "Unauthorized")
        return web.json_response(pod("a", 1))

    async with calling(respond, clock=clock, credentials=TokenFile(token, clock=clock)) as (client, _, _):
        await who(client)
        token.write_text("second")
        accepted.clear()
        accepted.add("Bearer second")
        await who(client)
        assert seen == ["Bearer first", "Bearer first", "Bearer second"]
        token.write_text("third")
        accepted.add("Bearer third")
        for jump in (timedelta(days=365), timedelta(days=-3650)):
            clock.wall += jump
            await who(client)
            assert seen[-1] == "Bearer second"
        clock.seconds += 60.0
        await who(client)
        assert seen[-1] == "Bearer third"
        accepted.clear()
        with pytest.raises(Unauthorized):
            await who(client)
        assert seen[-3:] == ["Bearer third"] * 3, "one retry and no more"


async def test_a_refused_watch_comes_back_with_the_new_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] != "Bearer second" and "watch" in request.query:
            token.write_text("second")
            return status(401, "Unauthorized")
        return await stream(request, event("ADDED", pod("a", 5))) if "watch" in request.query else listing()

    async with calling(respond, credentials=TokenFile(token)) as (_, rest, _):
        informer = Informer(rest, PODS, Scope("n"), metrics=RuntimeMetrics(), machine=machine())
        task = asyncio.create_task(informer.run())
        await eventually(lambda: informer.status().objects == 1)
        await cancel_and_wait(task)


def machine() -> ReflectorMachine:
    return ReflectorMachine(streaming=False, rng=lambda: 0.0)


# Sending again


async def test_a_five_megabyte_object_is_written_and_written_again_whole() -> None:
    """Pitfall 88: a retry sends the whole body, also a large one; and no library complains of its size."""
    sizes: list[int] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        sizes.append(len(body))
        if len(sizes) < 3:
            return status(429, "TooManyRequests", **{"Retry-After": "0"})
        return web.Response(body=body, content_type="application/json")

    async with limitless(respond) as (client, _):
        big = pod("a", 1, text="x" * 5_000_000)
        created = await client.create(PODS, big)
    assert created == big
    assert len(set(sizes)) == 1
    assert len(sizes) == 3


@asynccontextmanager
async def limitless(respond: Callable[[web.Request], Any]) -> AsyncIterator[tuple[Client, Rest]]:
    """A server that takes bodies of any size."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rest = Rest(RestConfig(server=f"http://127.0.0.1:{runner.addresses[0][1]}"), RuntimeMetrics())
    try:
        yield Client(rest), rest
    finally:
        await rest.aclose()
        await runner.cleanup()


async def test_retries_end_and_say_why() -> None:
    """Pitfall 88."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return status(503, "ServiceUnavailable", "overloaded", **{"Retry-After": "0"})

    async with calling(respond) as (client, _, requests):
        with pytest.raises(ServiceUnavailable, match="overloaded"):
            await client.create(PODS, pod("a", 1))
        assert len(requests) == 11


async def test_a_refused_token_after_the_last_retry_is_still_answered() -> None:
    """A 401 between two retries uses up none of them, and the last answer is what is raised."""

    class Renewed:
        certificate = b""

        async def authorization(self) -> str | None:
            return "Bearer x"

        def rejected(self, authorization: str | None) -> bool:
            return True

    answers = [(503, {"Retry-After": "0"})] * 10 + [(401, {})] + [(503, {"Retry-After": "0"})]

    async def respond(request: web.Request) -> web.StreamResponse:
        code, headers = answers.pop(0)
        return status(code, "ServiceUnavailable" if code == 503 else "Unauthorized", **headers)

    async with calling(respond, credentials=Renewed()) as (client, _, requests):
        with pytest.raises(ServiceUnavailable):
            await client.create(PODS, pod("a", 1))
        assert len(requests) == 12


async def test_a_cancelled_retry_is_cancelled() -> None:
    """Pitfall 88: the caller's wish to stop is not replaced by the server's error."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return status(429, "TooManyRequests", **{"Retry-After": "60"})

    async with calling(respond) as (client, _, requests):
        task = asyncio.create_task(client.get(PODS, "a", "n"))
        await eventually(lambda: len(requests) == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_write_that_had_to_wait_asks_the_fence_again() -> None:
    """A leader whose lease runs out while a server keeps it waiting does not send what it was about to send."""
    leading = True

    def fence() -> None:
        if not leading:
            raise FencedError("the lease has run out")

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal leading
        leading = False
        return status(429, "TooManyRequests", **{"Retry-After": "0"})

    async with calling(respond) as (_, rest, requests):
        with pytest.raises(FencedError):
            await Client(rest, fence=fence).create(PODS, pod("a", 1))
        assert len(requests) == 1


@pytest.mark.looptime
async def test_a_clients_own_limit_is_a_burst_and_then_a_rate() -> None:
    """Two requests at once, then one a second."""
    bucket = TokenBucket(1.0, 2, monotonic=asyncio.get_running_loop().time)
    waits = [await bucket.acquire() for _ in range(4)]
    assert waits == pytest.approx([0.0, 0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="burst"):
        TokenBucket(1.0, 0)


async def test_a_clients_own_limit_is_measured_and_spares_leases() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(pod("a", 1))

    async with calling(respond, qps=1000.0, burst=1) as (client, rest, _):
        for _ in range(3):
            await who(client)
        await rest.send("GET", "/lease", pool=Pool.LEASE)
        limited = rest._metrics.registry.get_sample_value(
            "rest_client_rate_limiter_duration_seconds_count", {"verb": "GET", "host": rest._host}
        )
    assert limited == 3, "leases are exempt"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("3600", 60.0),
        ("-5", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 2026 00:00:09 GMT", 9.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_the_delay_that_a_server_asks_for_is_bounded_whatever_the_wall_clocks_say(
    header: str, seconds: float | None
) -> None:
    assert retry_after(header, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


# Answers that are none


async def test_a_lease_is_renewed_while_all_other_requests_hang() -> None:
    """Pitfall 98: connections of their own."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("lease"):
            return web.json_response({})
        await asyncio.Event().wait()
        raise AssertionError

    async with calling(respond) as (client, rest, requests):
        hanging = [asyncio.create_task(client.get(PODS, "a", "n")) for _ in range(40)]
        await eventually(lambda: len(requests) == 32)
        async with asyncio.timeout(5):
            await rest.send("GET", "/lease", pool=Pool.LEASE)
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)


@pytest.mark.parametrize("verb", ["create", "delete", "post"])
async def test_an_answer_that_is_not_json_is_an_error_with_the_reason(verb: str) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<html>\xff gateway</html>", content_type="text/html")

    async with calling(respond) as (client, _, _):
        calls: dict[str, Callable[[], Any]] = {
            "create": lambda: client.create(PODS, pod("a", 1)),
            "delete": lambda: client.delete(PODS, "a", "n"),
            "post": lambda: client.post(PODS, "a", "eviction", {}, "n"),
        }
        with pytest.raises(DecodeError, match="the server's answer"):
            await calls[verb]()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((503, "upstream connect error"), ServiceUnavailable, "the server answered 503: upstream connect error"),
        # kube-apiserver's own words for a path that it does not know say less than ours.
        ((404, "404 page not found"), NotFound, "the server could not find the requested resource"),
    ],
)
async def test_an_error_without_a_status_is_told_in_words(
    answer: tuple[int, str], error: type[Exception], words: str
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=answer[0], text=answer[1])

    async with calling(respond) as (client, _, _):
        with pytest.raises(error, match=words):
            await who(client)


async def raw_server(answer: bytes, *, hold: bool = False) -> asyncio.Server:
    """Reads a request's head and answers with exactly these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hold:
                await reader.read()
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@asynccontextmanager
async def raw(answer: bytes, *, hold: bool = False) -> AsyncIterator[Rest]:
    server = await raw_server(answer, hold=hold)
    rest = Rest(RestConfig(server=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), RuntimeMetrics())
    try:
        yield rest
    finally:
        await rest.aclose()
        server.close()
        await server.wait_closed()


BROKEN_ANSWERS = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "error cut short": b"HTTP/1.1 500 No\r\nContent-Length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("answer", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
async def test_a_broken_answer_is_a_transport_error_for_requests_and_watches(answer: bytes) -> None:
    async with raw(answer) as rest:
        with pytest.raises(OutcomeUnknown):
            await rest.send("POST", "/x", body=b"{}")
        with pytest.raises(TransportError):
            await watched(rest)


async def test_a_refusal_that_never_ends_does_not_hold_a_watch_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaito.runtime.transport.rest.REQUEST_TIMEOUT", 0.1)
    async with raw(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n{", hold=True) as rest:
        with pytest.raises(TransportError, match="timed out"):
            await watched(rest)


async def test_throttled_watches_say_how_long_to_wait() -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return status(429, "TooManyRequests", **{"Retry-After": "5"})

    async with calling(respond) as (_, rest, _):
        with pytest.raises(TooManyRequests) as caught:
            await watched(rest)
    assert caught.value.retry_after == 5.0


async def test_large_integers_are_patched_as_they_are() -> None:
    """Pitfall 77."""
    bodies: list[bytes] = []

    async def respond(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return web.Response(body=b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"n":%d}' % (2**63 - 1))

    async with calling(respond) as (client, _, _):
        answer = await client.patch(CONFIG_MAPS, "a", {"n": 2**63 - 1, "m": 2**64, "f": 1.0}, namespace="n")
    assert bodies == [b'{"n":9223372036854775807,"m":18446744073709551616,"f":1.0}']
    assert answer["n"] == 2**63 - 1
