"""Queue, clients that go away, slow and large requests, loading and stopping."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from inference.scripted import ScriptedEngine, serving
from kaito.inference.errors import ConfigError, ModelError
from kaito.inference.server import listen
from kaito.inference.service import State
from kaito.inference.settings import Settings
from support.waiting import eventually

PROMPT = {"prompt": "x"}


def _held(**facts: int) -> ScriptedEngine:
    engine = ScriptedEngine("abc", **facts)
    engine.gate.clear()
    return engine


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    engine = _held(batch=2)
    async with serving(engine, max_queue=1) as face:
        accepted = [asyncio.create_task(face.post("/v1/completions", PROMPT)) for _ in range(3)]
        await eventually(lambda: face.service.admission.waiting == 1 and engine.running == 2)
        async with face.http.post(face.url + "/v1/completions", json=PROMPT) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
        assert (await face.post("/chat", PROMPT))[0] == 429
        metrics = (await face.get("/metrics"))[1]
        assert "kaito_ratelimit_rejected_total 2.0" in metrics
        assert "kaito_inference_sequences_running 2.0" in metrics
        assert "kaito_inference_sequences_waiting 1.0" in metrics
        engine.gate.set()
        assert [status for status, _ in await asyncio.gather(*accepted)] == [200, 200, 200]
        assert engine.most == 2
        assert face.service.admission.idle
        assert (await face.post("/v1/completions", PROMPT))[0] == 200


async def test_a_request_for_more_sequences_than_there_are_places_takes_none() -> None:
    async with serving(ScriptedEngine(batch=1), max_queue=1) as face:
        assert (await face.post("/v1/completions", {**PROMPT, "n": 3}))[0] == 429
        assert face.service.admission.idle
        assert (await face.post("/v1/completions", {**PROMPT, "n": 2}))[0] == 200


@pytest.mark.parametrize(
    "body", [PROMPT, {**PROMPT, "stream": True}, {**PROMPT, "n": 3}, {**PROMPT, "n": 3, "stream": True}]
)
async def test_a_client_that_goes_away_ends_its_generation(body: dict[str, object]) -> None:
    engine = _held(batch=2)
    async with serving(engine) as face:
        request = asyncio.create_task(face.post("/v1/completions", body))
        await eventually(lambda: engine.running)
        request.cancel()
        await eventually(lambda: engine.running == 0 and face.service.admission.idle)
        assert engine.cancelled == min(2, int(str(body.get("n", 1))))
        assert "kaito_inference_cancelled_total 1.0" in (await face.get("/metrics"))[1]


async def test_a_client_that_goes_away_in_the_middle_of_a_stream_ends_it() -> None:
    engine = ScriptedEngine("x" * 10_000, context=100_000)
    async with serving(engine) as face:
        async with face.http.post(
            face.url + "/v1/completions", json={**PROMPT, "stream": True, "max_tokens": 10_000}
        ) as response:
            await response.content.readline()
            response.close()
        await eventually(lambda: engine.running == 0 and face.service.admission.idle)
        assert engine.cancelled == 1


async def test_one_that_waits_and_goes_away_is_never_generated() -> None:
    engine = _held(batch=1)
    async with serving(engine) as face:
        first = asyncio.create_task(face.post("/v1/completions", PROMPT))
        await eventually(lambda: engine.running == 1)
        second = asyncio.create_task(face.post("/v1/completions", PROMPT))
        await eventually(lambda: face.service.admission.waiting == 1)
        second.cancel()
        await eventually(lambda: face.service.admission.waiting == 0)
        engine.gate.set()
        assert (await first)[0] == 200
        assert len(engine.seen) == 1


async def test_a_large_request_is_refused() -> None:
    async with serving(max_body=2048) as face:
        assert (await face.post("/chat", {"prompt": "x" * 3000}))[0] == 413
        status, body = await face.post("/v1/completions", {"prompt": "x" * 3000})
        assert status == 413
        assert "2048" in body["error"]["message"]
        assert (await face.post("/chat", PROMPT))[0] == 200


async def test_a_slow_request_is_refused() -> None:
    async with serving(body_timeout=0.5) as face:
        host, _, port = face.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head.encode())
        async with asyncio.timeout(20):
            assert b"408" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert (await face.post("/chat", PROMPT))[0] == 200


async def test_many_connections_at_once_are_answered_or_refused() -> None:
    engine = ScriptedEngine("ab", batch=4)
    async with serving(engine, max_queue=8) as face:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:

            async def ask() -> int:
                async with http.post(face.url + "/v1/completions", json=PROMPT) as response:
                    await response.read()
                    return response.status

            statuses = await asyncio.gather(*(ask() for _ in range(200)))
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 12
        assert engine.most <= 4
        assert face.service.admission.idle


async def test_stopping_waits_for_what_is_running_and_refuses_the_rest() -> None:
    engine = _held()
    async with serving(engine) as face:
        running = asyncio.create_task(face.post("/v1/completions", PROMPT))
        await eventually(lambda: engine.running == 1)
        face.server.stop()
        await eventually(lambda: face.service.state is State.DRAINING)
        assert (await face.get("/health"))[0] == 503
        status, body = await face.post("/v1/completions", PROMPT)
        assert (status, body["error"]["code"]) == (503, "unavailable")
        assert not face.task.done()
        engine.gate.set()
        assert (await running)[0] == 200
        await asyncio.wait([face.task], timeout=20)
        assert face.task.done()
        assert engine.closed


async def test_requests_are_taken_while_the_cluster_has_not_learned_that_the_server_is_stopping() -> None:
    async with serving(drain_delay=30.0, drain_timeout=60.0) as face:
        face.server.stop()
        await eventually(lambda: face.service.state is State.DRAINING)
        assert (await face.post("/v1/completions", PROMPT))[0] == 200
        face.task.cancel()


async def test_stopping_does_not_wait_without_end() -> None:
    engine = _held()
    async with serving(engine, drain_timeout=0.05) as face:
        running = asyncio.create_task(face.post("/v1/completions", PROMPT))
        await eventually(lambda: engine.running == 1)
        face.server.stop()
        status, body = await running
        assert (status, body["error"]["code"]) == (503, "unavailable")
        await asyncio.wait([face.task], timeout=20)
        assert face.task.done()
        assert engine.running == 0


async def test_stopping_while_the_model_is_being_loaded() -> None:
    engine = ScriptedEngine()
    engine.loaded.clear()
    async with serving(engine, ready=False) as face:
        assert (await face.get("/health"))[0] == 500
        face.server.stop()
        await asyncio.wait([face.task], timeout=20)
        assert face.task.done()
        assert engine.closed


async def test_a_model_that_does_not_load_ends_the_server_with_the_reason() -> None:
    engine = ScriptedEngine()
    engine.broken = ModelError("the file is cut off")
    async with serving(engine, ready=False) as face:
        with pytest.raises(ModelError, match="cut off"):
            await asyncio.wait_for(face.task, 20)
    assert engine.closed


def test_a_port_that_is_taken_is_said() -> None:
    settings = Settings(host="127.0.0.1", port=0)
    with listen(settings) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port: cannot listen on 127.0.0.1:{port}"):
            listen(settings.model_copy(update={"port": port}))
