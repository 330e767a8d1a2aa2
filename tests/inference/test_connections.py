"""More clients than the server can answer, and clients that take their time."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest

from inference.process import server
from inference.scripted import Face, ScriptedEngine, serving
from support.waiting import eventually

MANY = 10_000
SPARE = 500
"""Files that a test has open besides."""
WAVE = 250
BODY = json.dumps({"prompt": "x", "max_tokens": 4}).encode()
HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
)


@pytest.fixture
def files() -> Iterator[int]:
    """Connections that this process can have, which may be fewer than many; it has the limit only for the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(MANY, hard - SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_ten_thousand_connections_get_an_answer_each_and_the_server_lives(files: int) -> None:
    with server("never", "is ready after", "--max-queue=64", "--body-timeout=240") as (process, url):
        host, _, port = url.removeprefix("http://").partition(":")
        connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            for begin in range(0, files, WAVE):
                count = min(WAVE, files - begin)
                connections += await asyncio.gather(*(asyncio.open_connection(host, int(port)) for _ in range(count)))
            async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as response:
                assert response.status == 200
            for _, writer in connections:
                writer.write(HEAD + BODY)
            async with asyncio.timeout(240):
                lines = await asyncio.gather(*(reader.readline() for reader, _ in connections))
            statuses = Counter(int(line.split()[1]) for line in lines)
            assert set(statuses) <= {200, 429}, statuses
            assert statuses[200] >= 4 + 64, "as many as run and wait"
            async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as response:
                assert response.status == 200
            assert process.poll() is None
        finally:
            for _, writer in connections:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


async def test_a_client_that_does_not_read_its_answer_gives_up_its_place() -> None:
    length = 100_000
    engine = ScriptedEngine("x" * length, context=2 * length, batch=1)
    async with serving(engine, body_timeout=0.5) as face:
        host, _, port = face.url.removeprefix("http://").partition(":")
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            body = json.dumps({"prompt": "x", "max_tokens": length, "stream": True}).encode()
            lazy.sendall(HEAD.replace(b"%d" % len(BODY), b"%d" % len(body)) + body)
            await eventually(lambda: engine.running == 1)
            await eventually(lambda: engine.running == 0, deadline=60)
            assert engine.cancelled == 1
            await eventually(lambda: face.service.admission.idle)
            assert (await face.post("/v1/completions", {"prompt": "x"}))[0] == 200


SLOW = 1000
HALF = b"GET /health HTTP/1.1\r\nHost: x\r\nX: "


async def _drip(face: Face, begin: bytes) -> bytes:
    """What a client is told that sends ``begin`` and then a byte at a time, until the server hangs up."""
    host, _, port = face.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(begin)
    told = asyncio.create_task(reader.read())
    try:
        while not (await asyncio.wait([told], timeout=0.3))[0]:
            writer.write(b"x")
        return await told
    except ConnectionError:
        return b""
    finally:
        told.cancel()
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_clients_that_send_a_byte_at_a_time_are_hung_up_on() -> None:
    async with serving(body_timeout=2.0) as face, asyncio.timeout(60):
        slow = asyncio.gather(*(_drip(face, HALF) for _ in range(SLOW)))
        assert (await face.get("/health"))[0] == 200
        answers = await slow
        # Who writes on when the server has hung up may lose what it was told.
        assert {answer.partition(b"\r\n")[0] for answer in answers} <= {b"HTTP/1.1 408 Request Timeout", b""}
        assert (await face.get("/health"))[0] == 200


async def _said(face: Face, begin: bytes) -> bytes:
    """What a client is told that sends ``begin`` and then nothing, until the server hangs up."""
    host, _, port = face.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(begin)
    told = await reader.read()
    writer.close()
    await writer.wait_closed()
    return told


async def test_a_head_that_does_not_come_to_its_end_is_told_so() -> None:
    async with serving(body_timeout=1.0) as face, asyncio.timeout(60):
        told = await _said(face, HALF)
        assert told.startswith(b"HTTP/1.1 408 Request Timeout")
        assert b"did not arrive within 1 s" in told


async def test_a_head_that_follows_an_answered_request_has_the_same_time() -> None:
    async with serving(body_timeout=1.0) as face, asyncio.timeout(60):
        told = await _said(face, HALF + b"y\r\n\r\n" + HALF)
        assert told.startswith(b"HTTP/1.1 200 OK")
        assert b"HTTP/1.1 408 Request Timeout" in told


async def test_a_body_that_nobody_waits_for_does_not_hold_its_connection() -> None:
    async with serving(body_timeout=1.0) as face, asyncio.timeout(60):
        head = HALF + b"y\r\nContent-Length: 1000000\r\n\r\n"
        assert (await _said(face, head)).count(b"HTTP/1.1 200 OK") == 1
        assert (await _said(face, HALF + b"y\r\n\r\n" + head)).count(b"HTTP/1.1 200 OK") == 2


async def test_a_connection_on_which_nothing_is_said_is_closed() -> None:
    async with serving(body_timeout=1.0) as face, asyncio.timeout(60):
        assert await _said(face, b"") == b""


async def test_a_request_that_takes_long_and_a_connection_that_rests_are_left_alone() -> None:
    engine = ScriptedEngine()
    engine.gate.clear()
    async with serving(engine, body_timeout=0.5) as face, asyncio.timeout(60):
        host, _, port = face.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(2):
            engine.gate.clear()
            writer.write(HEAD + BODY)
            await eventually(lambda: engine.running == 1)
            await asyncio.sleep(0.8)  # longer than a head or a body may take
            engine.gate.set()
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := await reader.readline()) != b"\r\n":
                name, _, value = line.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            await reader.readexactly(length)
            await asyncio.sleep(0.8)
        writer.close()
        await writer.wait_closed()
