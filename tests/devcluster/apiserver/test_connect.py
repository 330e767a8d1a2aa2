"""Port-forward, attach and proxy, by the real kubectl and by hand."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pty
import re
import signal
import ssl
import sys
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from devcluster.harness import Kube
from kaito.devcluster.apiserver import ApiServer, AttachOptions
from kaito.devcluster.apiserver.connect.backends import PodAddress
from kaito.devcluster.apiserver.connect.portforward import PortForward
from kaito.devcluster.apiserver.connect.spdy import Headers, Session, SpdyError, Type, control, data
from kaito.runtime import BadRequest
from support.kubectl import Kubectl, installed
from support.pods import listening, loopback_address, saying
from support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods have addresses of this machine on Linux only")

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
WIRES = {"websocket": "true", "spdy": "false"}


@pytest.fixture(params=installed().values(), ids=installed().keys())
async def kubectl(request: pytest.FixtureRequest, api_server: ApiServer, tmp_path: Path) -> Kubectl:
    """Each kubectl of this machine."""
    config = tmp_path / "kubeconfig"
    config.write_text(yaml.safe_dump(api_server.kubeconfig()))
    return Kubectl(request.param, config, tmp_path, "default")


async def pod(
    kube: Kube,
    address: str,
    name: str = "p",
    phase: str = "Running",
    containers: tuple[str, ...] = ("main",),
    **spec: Any,
) -> None:
    """One that runs, at an address."""
    held = [
        {"name": each, "image": "i", "ports": [{"name": "http", "containerPort": 5000}], **spec} for each in containers
    ]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"nodeName": "n", "containers": held},
    }
    assert (await kube.post(PODS, body)).status == 201
    statuses = [
        {"name": each, "state": {"running": {}}, "ready": True, "image": "i", "imageID": "", "restartCount": 0}
        for each in containers
    ]
    status = {
        "phase": phase,
        "podIP": address,
        "containerStatuses": statuses,
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    assert (await kube.merge(f"{PODS}/{name}/status", {"status": status})).status == 200


@asynccontextmanager
async def running(kubectl: Kubectl, *arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *kubectl.command(*arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**kubectl.env(), **environ},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return (await process.stdout.readline()).decode()


async def call(kubectl: Kubectl, *arguments: str) -> str:
    """What it prints, in whatever way it ends."""
    async with running(kubectl, *arguments) as process, asyncio.timeout(30):
        return (await process.communicate())[0].decode()


async def forwarded(process: asyncio.subprocess.Process) -> int:
    """The local port that kubectl says it forwards."""
    found = re.search(r"127\.0\.0\.1:(\d+) ->", await line(process))
    assert found
    return int(found[1])


@pytest.mark.parametrize("websockets", WIRES.values(), ids=WIRES.keys())
async def test_port_forward(kube: Kube, kubectl: Kubectl, websockets: str) -> None:
    address = loopback_address()
    await pod(kube, address)
    async with (
        listening(saying("a"), address, 5000),
        running(kubectl, "port-forward", "pod/p", ":5000", KUBECTL_PORT_FORWARD_WEBSOCKETS=websockets) as process,
    ):
        port = await forwarded(process)

        async def talk(index: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for word in ("one", "two"):
                writer.write(f"{word} {index}\n".encode())
                assert await reader.readline() == f"a: {word} {index}\n".encode()
            writer.write_eof()
            assert await reader.read() == b"bye\n"
            writer.close()

        async with asyncio.timeout(20):
            await asyncio.gather(*map(talk, range(10)))


@pytest.mark.parametrize("websockets", WIRES.values(), ids=WIRES.keys())
async def test_port_forward_of_much_data_both_ways(kube: Kube, kubectl: Kubectl, websockets: str) -> None:
    address, much = loopback_address(), os.urandom(1 << 22)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    await pod(kube, address)
    async with (
        listening(echo, address, 5000),
        running(kubectl, "port-forward", "pod/p", ":http", KUBECTL_PORT_FORWARD_WEBSOCKETS=websockets) as process,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", await forwarded(process))
        async with asyncio.timeout(30):
            writer.write(much)
            assert await reader.readexactly(len(much)) == much
        writer.close()


async def test_a_client_that_leaves_ends_the_connection_to_the_pod(kube: Kube, kubectl: Kubectl) -> None:
    address = loopback_address()
    left = asyncio.Event()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here\n")
        try:
            await reader.read()
        finally:
            left.set()

    await pod(kube, address)
    async with listening(note, address, 5000):
        async with running(kubectl, "port-forward", "pod/p", ":5000") as process:
            port = await forwarded(process)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"here\n"
            writer.transport.abort()
            async with asyncio.timeout(20):
                await left.wait()
            left.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.readline() == b"here\n"
        async with asyncio.timeout(20):
            await left.wait()
        writer.transport.abort()


async def test_port_forward_to_a_service_finds_the_port_of_its_pods(kube: Kube, kubectl: Kubectl) -> None:
    address = loopback_address()
    await pod(kube, address)
    await kube.merge(f"{PODS}/p", {"metadata": {"labels": {"app": "x"}}})
    spec = {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http"}]}
    await kube.post(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
    async with listening(saying("a"), address, 5000), running(kubectl, "port-forward", "service/s", ":80") as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", await forwarded(process))
        writer.write(b"x\n")
        assert await reader.readline() == b"a: x\n"
        writer.close()


async def test_where_nobody_listens_kubectl_says_so(kube: Kube, kubectl: Kubectl) -> None:
    address = loopback_address()
    await pod(kube, address)
    async with running(kubectl, "port-forward", "pod/p", ":5000") as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", await forwarded(process))
        writer.write(b"x\n")
        said = ""
        while "error forwarding port 5000 to pod p: nothing answers at" not in said:
            said = await line(process)
            assert said, "kubectl has ended without a word"
        assert await reader.read() == b""
        writer.close()


async def test_a_pretended_pod_is_refused_with_words(kube: Kube, kubectl: Kubectl) -> None:
    await pod(kube, "10.244.0.9")
    said = await call(kubectl, "port-forward", "pod/p", ":5000")
    # kubectl listens first and dials then.
    assert "pod p is simulated: no process runs in it" in said
    assert "exec is not possible" in await call(kubectl, "exec", "p", "--", "ls")
    assert "attach is not possible" in await call(kubectl, "attach", "p")
    refused = await kube.get(f"{PODS}/p:5000/proxy/")
    assert (refused.status, "is simulated" in refused.body["message"]) == (400, True)


class Echo:
    """A process that answers its input in capitals until it ends with ``bye``."""

    def __init__(self) -> None:
        self.options: AttachOptions | None = None
        self.size: tuple[int, int] | None = None
        self._said: asyncio.Queue[tuple[bool, bytes]] = asyncio.Queue()
        self._said.put_nowait((False, b"ready\n"))
        self.input_closed = False

    def __call__(self, pod: Mapping[str, Any], options: AttachOptions) -> Echo:
        if options.container == "none":
            raise BadRequest("container none is not running")
        self.options = options
        return self

    async def output(self) -> AsyncGenerator[tuple[bool, bytes], None]:
        while (item := await self._said.get())[1]:
            yield item

    async def write(self, data: bytes) -> None:
        self._said.put_nowait((False, data.upper()))
        if b"bad" in data:
            self._said.put_nowait((True, b"oh\n"))

    def close_input(self) -> None:
        if not self.input_closed:
            self.input_closed = True
            self._said.put_nowait((False, b"bye\n"))
            self._said.put_nowait((False, b""))

    def resize(self, columns: int, rows: int) -> None:
        self.size = (columns, rows)


@pytest.mark.parametrize("websockets", WIRES.values(), ids=WIRES.keys())
async def test_attach(kube: Kube, api_server: ApiServer, kubectl: Kubectl, websockets: str) -> None:
    echo = api_server.attach_provider = Echo()
    await pod(kube, loopback_address(), stdin=True, stdinOnce=True)
    async with running(kubectl, "attach", "-i", "p", "-q", KUBECTL_REMOTE_COMMAND_WEBSOCKETS=websockets) as process:
        assert process.stdin is not None
        while (said := await line(process)) != "ready\n":
            assert said, "kubectl has ended"
        process.stdin.write(b"hello\n")
        assert await line(process) == "HELLO\n"
        process.stdin.write(b"bad\n")
        assert sorted([await line(process), await line(process)]) == ["BAD\n", "oh\n"]
        process.stdin.close()
        assert await line(process) == "bye\n"
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    assert echo.options == AttachOptions("main", stdin=True, stdout=True, stderr=True, tty=False)


@pytest.mark.parametrize("websockets", WIRES.values(), ids=WIRES.keys())
async def test_attach_to_a_terminal_brings_its_size(
    kube: Kube, api_server: ApiServer, kubectl: Kubectl, websockets: str
) -> None:
    echo = api_server.attach_provider = Echo()
    await pod(kube, loopback_address(), stdin=True, tty=True)
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *kubectl.command("attach", "-it", "p"),
            stdin=theirs,
            stdout=theirs,
            stderr=asyncio.subprocess.DEVNULL,
            env={**kubectl.env(), "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets, "TERM": "xterm"},
            start_new_session=True,
        )
        try:
            termios.tcsetwinsize(ours, (40, 120))
            process.send_signal(signal.SIGWINCH)
            await eventually(lambda: echo.size == (120, 40))
        finally:
            process.kill()
            await process.wait()
    finally:
        os.close(ours)
        os.close(theirs)
    assert echo.options is not None
    assert (echo.options.tty, echo.options.stderr) == (True, False)
    await eventually(lambda: echo.input_closed)


async def test_attach_needs_a_container_and_an_upgrade(kube: Kube, api_server: ApiServer, kubectl: Kubectl) -> None:
    api_server.attach_provider = Echo()
    await pod(kube, loopback_address(), containers=("main", "none"))
    answer = await kube.get(f"{PODS}/p/attach", stdout="true", container="main")
    assert (answer.status, answer.body["message"]) == (400, "unable to upgrade: missing upgrade headers in request")
    assert "container none is not running" in await call(kubectl, "attach", "p", "-c", "none")
    assert "container other" in await call(kubectl, "attach", "p", "-c", "other")


@asynccontextmanager
async def site(address: str) -> AsyncIterator[list[web.Request]]:
    """A web server of a pod; what it was asked."""
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        if request.path == "/ws":
            socket = web.WebSocketResponse(protocols=("chat",))
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(f"{request.query_string} {message.data}")
            return socket
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": request.query["to"]})
        if request.path == "/stream":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            await request.read()
            await response.write(b"then")
            return response
        body = b"".join([chunk async for chunk in request.content.iter_any()])
        return web.json_response(
            {"method": request.method, "path": request.path_qs, "body": len(body)}, status=201, headers={"X-Mine": "1"}
        )

    runner = web.ServerRunner(web.Server(handle))  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, address, 5000).start()
    try:
        yield asked
    finally:
        await runner.cleanup()


async def test_http_is_proxied_to_a_pod(kube: Kube, kubectl: Kubectl) -> None:
    address = loopback_address()
    await pod(kube, address)
    base = f"{PODS}/p:http/proxy"
    async with site(address) as asked:
        answer = await kube.call("POST", f"{base}/a/b%2Fc//d", b"x" * 5_000_000, q="1 2")
        assert answer.status == 201
        assert answer.headers["X-Mine"] == "1"
        assert answer.body == {"method": "POST", "path": "/a/b%2Fc//d?q=1+2", "body": 5_000_000}
        headers = asked[0].headers
        assert "Authorization" not in headers
        assert headers["X-Forwarded-Uri"] == f"{base}/a/b%2Fc//d?q=1+2"
        assert headers["Host"] == f"{address}:5000"
        assert (await kube.delete(f"{PODS}/p/proxy/x")).body["method"] == "DELETE"
        assert (await kube.get(f"{PODS}/http:p:5000/proxy/")).body["path"] == "/"
        assert '"path": "/v1/models"' in await call(kubectl, "get", "--raw", f"{base}/v1/models")
        bare = await kube.session.get(kube.server.url + base, headers=authorized(kube), allow_redirects=False)
        assert (bare.status, bare.headers["Location"]) == (301, f"{base}/")
        for to, seen in {
            "/else%2F?x=1#y": f"{base}/else%2F?x=1#y",
            f"http://{address}:5000/there": f"{base}/there",
            "beside": "beside",
            "https://example.com/x": "https://example.com/x",
        }.items():
            url = f"{kube.server.url}{base}/moved"
            moved = await kube.session.get(url, params={"to": to}, headers=authorized(kube), allow_redirects=False)
            assert moved.headers["Location"] == seen


def authorized(kube: Kube) -> dict[str, str]:
    return {"Authorization": f"Bearer {kube.token}"}


async def test_answers_are_passed_on_as_they_come(kube: Kube) -> None:
    address = loopback_address()
    await pod(kube, address)
    goes_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        await goes_on.wait()

    async with site(address), asyncio.timeout(20):
        url = f"{kube.server.url}{PODS}/p/proxy/stream"
        async with kube.session.post(url, data=body(), headers=authorized(kube)) as response:
            assert await response.content.readexactly(5) == b"first"
            goes_on.set()
            assert await response.content.read() == b"then"


async def test_websockets_are_proxied(kube: Kube) -> None:
    address = loopback_address()
    await pod(kube, address)
    async with site(address), asyncio.timeout(20):
        url = f"{kube.server.url}{PODS}/p/proxy/ws?a=b"
        async with kube.session.ws_connect(url, headers=authorized(kube), protocols=("talk", "chat")) as socket:
            assert socket.protocol == "chat"
            await socket.send_str("hi")
            assert await socket.receive_str() == "a=b hi"
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await kube.session.ws_connect(f"{kube.server.url}{PODS}/p/proxy/other", headers=authorized(kube))


async def test_a_service_is_proxied_to_a_ready_endpoint(kube: Kube) -> None:
    address = loopback_address()
    ports = [{"name": "api", "port": 80, "targetPort": 5000}, {"name": "more", "port": 90}]
    await kube.post(
        SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}}
    )
    nobody = await kube.get(f"{SERVICES}/s:80/proxy/")
    assert (nobody.status, nobody.body["message"]) == (503, 'no endpoints available for service "s"')
    subset = {"addresses": [{"ip": address, "targetRef": {"kind": "Pod"}}], "ports": [{"name": "api", "port": 5000}]}
    endpoints = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s"}, "subsets": [subset]}
    await kube.post("/api/v1/namespaces/default/endpoints", endpoints)
    async with site(address):
        for name in ("s:80", "s:api", "http:s:80"):
            assert (await kube.get(f"{SERVICES}/{name}/proxy/chat")).body["path"] == "/chat"
    for name, why in {
        "s:81": 'no service port 81 found for service "s"',
        "s:more": 'no endpoints available for service "s"',
        "s:80": "error trying to reach service: ",
    }.items():
        answer = await kube.get(f"{SERVICES}/{name}/proxy/")
        assert (answer.status, why in answer.body["message"]) == (503, True), answer.body
    assert (await kube.get(f"{SERVICES}/a:b:c:d/proxy/")).status == 400


async def test_connections_need_the_right_to_make_them(kube: Kube, api_server: ApiServer) -> None:
    await pod(kube, loopback_address())
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    await kube.post("/api/v1/namespaces/default/serviceaccounts", account)
    other = kube.acting(api_server.issue_token("default", "a"))
    for subresource, verb in {"proxy/x": "get", "portforward": "get", "attach": "get", "exec": "get"}.items():
        answer = await other.get(f"{PODS}/p/{subresource}")
        assert answer.status == 403
        assert f'cannot {verb} resource "pods/{subresource.partition("/")[0]}"' in answer.body["message"]


class _Wire:
    """The far end of a SPDY connection: what is fed to it, and what it was sent."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self._incoming: asyncio.Queue[bytes] = asyncio.Queue()

    def feed(self, *frames: bytes) -> None:
        for frame in frames:
            self._incoming.put_nowait(frame)

    async def receive(self) -> bytes:
        return await self._incoming.get()

    async def send(self, data: bytes) -> None:
        self.sent += data


def syn(headers: Headers, number: int, **named: str) -> bytes:
    return control(Type.SYN_STREAM, number.to_bytes(4, "big") + b"\0\0\0\0\0\0" + headers.encode(named))


async def test_spdy_frames_may_come_in_any_pieces() -> None:
    wire, opened = _Wire(), []
    session = Session(wire, opened.append)
    client = Headers()
    ping = control(Type.PING, b"\0\0\0\1")
    stream = syn(client, 1, streamtype="data", port="80") + syn(client, 3, streamtype="error")
    for byte in stream + ping + data(1, b"hello") + data(1, b"", last=True):
        wire.feed(bytes([byte]))
    wire.feed(b"")
    await session.run()
    assert [each.headers for each in opened] == [{"streamtype": "data", "port": "80"}, {"streamtype": "error"}]
    assert bytes(wire.sent).endswith(ping)
    assert opened[0].number == 1


async def test_a_spdy_stream_that_nobody_reads_holds_up_its_sender_until_it_is_discarded() -> None:
    wire, opened = _Wire(), []
    session = Session(wire, opened.append)
    running = asyncio.create_task(session.run())
    wire.feed(syn(Headers(), 1), *(data(1, b"x") for _ in range(100)))
    await eventually(lambda: opened)
    await asyncio.sleep(0)
    opened[0].discard()
    wire.feed(control(Type.PING, b"\0\0\0\7"), b"")
    async with asyncio.timeout(5):
        await running
    assert bytes(wire.sent).endswith(b"\0\0\0\7")
    assert await opened[0].read() == b""


@pytest.mark.parametrize(
    "frame",
    [
        control(Type.SYN_STREAM, b"\0\0\0\1\0\0\0\0\0\0not zlib"),
        control(Type.SYN_STREAM, b"\0"),
        (1 << 31 | 2 << 16 | 1).to_bytes(4, "big") + b"\0\0\0\0",
        b"\0\0\0\1\0\xff\xff\xff",
        (1 << 31 | 3 << 16 | 99).to_bytes(4, "big") + b"\0\0\0\0",
        syn(Headers(), 1, bomb="x" * 100_000),
    ],
    ids=["headers", "short", "version", "large", "type", "bomb"],
)
async def test_what_is_no_spdy_ends_the_session(frame: bytes) -> None:
    wire = _Wire()
    wire.feed(frame, b"")
    with pytest.raises(SpdyError):
        await Session(wire, lambda stream: None).run()


async def test_a_stream_that_is_reset_ends_its_connection_and_no_other() -> None:
    address, left = loopback_address(), []
    came = asyncio.Semaphore(0)

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = await reader.readline()
        came.release()
        try:
            while True:  # the end of its input alone does not end it
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.005)
        finally:
            left.append(name)

    async with listening(stay, address, 5000), asyncio.timeout(20):
        wire, client = _Wire(), Headers()
        running = asyncio.create_task(PortForward(wire, PodAddress("p", address)).run())
        for number, name in ((1, b"a\n"), (5, b"b\n")):
            named = {"port": "5000", "requestid": str(number)}
            wire.feed(
                syn(client, number, streamtype="error", **named), syn(client, number + 2, streamtype="data", **named)
            )
            wire.feed(data(number + 2, name))
            await came.acquire()
        wire.feed(control(Type.RST_STREAM, (3).to_bytes(4, "big") + (5).to_bytes(4, "big")))
        await eventually(lambda: left == [b"a\n"])
        wire.feed(b"")
        await running
        await eventually(lambda: left == [b"a\n", b"b\n"])


async def test_the_end_of_an_attached_process_is_told(kube: Kube, api_server: ApiServer) -> None:
    echo = api_server.attach_provider = Echo()
    await pod(kube, loopback_address(), stdin=True)
    url = f"{kube.server.url}{PODS}/p/attach?stdin=true&stdout=true&stderr=true"
    async with (
        asyncio.timeout(20),
        kube.session.ws_connect(url, headers=authorized(kube), protocols=["v5.channel.k8s.io"]) as socket,
    ):
        assert await socket.receive_bytes() == b"\1ready\n"
        await socket.send_bytes(b"\4" + b'{"Width": 80, "Height": 24}')
        await socket.send_bytes(b"\0bad")
        assert [await socket.receive_bytes() for _ in range(2)] == [b"\1BAD", b"\2oh\n"]
        await socket.send_bytes(bytes([255, 0]))
        assert await socket.receive_bytes() == b"\1bye\n"
        status = await socket.receive_bytes()
        assert (status[0], json.loads(status[1:])["status"]) == (3, "Success")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    assert echo.size == (80, 24)


async def test_connections_that_have_ended_are_forgotten(kube: Kube) -> None:
    address = loopback_address()
    await pod(kube, address)

    def handlers() -> int:
        gc.collect()
        return sum(isinstance(each, web.RequestHandler) for each in gc.get_objects())

    before = handlers()
    async with listening(saying("a"), address, 5000), asyncio.timeout(20):
        for _ in range(3):
            head = (
                f"POST {PODS}/p/portforward HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {kube.token}\r\n"
                "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
            )
            context = ssl.create_default_context(cadata=kube.server.ca_pem.decode())
            port = int(kube.server.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(head.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.close()
            await writer.wait_closed()
        await eventually(lambda: handlers() <= before)
