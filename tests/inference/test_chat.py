"""``POST /chat`` and the routes beside it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from inference.scripted import Face, ScriptedEngine, serving
from kaito.inference.errors import BadRequest
from kaito.inference.protocol import Generation
from support.waiting import eventually


async def test_a_prompt_is_answered_with_its_full_text() -> None:
    async with serving(ScriptedEngine(" world")) as face:
        assert await face.post("/chat", {"prompt": "Hello,"}) == (200, {"Result": "Hello, world"})
        assert await face.post("/chat", {"prompt": "Hi", "return_full_text": False}) == (200, {"Result": " world"})


async def test_messages_are_answered_with_the_last_message() -> None:
    async with serving(ScriptedEngine("it's me")) as face:
        status, body = await face.post("/chat", {"messages": [{"role": "user", "content": "who?"}]})
    assert (status, body) == (200, {"Result": str({"role": "assistant", "content": "it's me"})})
    assert face.engine.decode(face.engine.seen[0].prompt) == "<user>who?"


@pytest.mark.parametrize(
    ("pipeline", "body", "detail"),
    [
        ("", {}, "Text generation parameter prompt required"),
        ("", {"prompt": ""}, "Text generation parameter prompt required"),
        ("", {"messages": []}, "Conversational parameter messages required"),
        (
            "text-generation",
            {"messages": [{"role": "user", "content": "x"}]},
            "Text generation parameter prompt required",
        ),
        ("conversational", {"prompt": "x"}, "Conversational parameter messages required"),
    ],
)
async def test_what_is_missing_is_named(pipeline: str, body: dict[str, Any], detail: str) -> None:
    async with serving(pipeline=pipeline) as face:
        assert await face.post("/chat", body) == (400, {"detail": detail})
    assert not face.engine.seen


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": 3},
        {"prompt": "x", "generate_kwargs": {"max_length": "many"}},
        {"prompt": "x", "generate_kwargs": 3},
        {"messages": [{"role": "user"}]},
    ],
)
async def test_a_wrong_type_is_unprocessable(body: dict[str, Any]) -> None:
    async with serving() as face:
        status, answer = await face.post("/chat", body)
        assert status == 422
        assert answer["detail"][0]["loc"][0] == "body"


async def test_a_body_that_is_no_json_is_unprocessable() -> None:
    async with (
        serving() as face,
        face.http.post(
            face.url + "/chat", data=b'{"prompt":', headers={"Content-Type": "application/json"}
        ) as response,
    ):
        assert response.status == 422
        assert (await response.json())["detail"][0]["type"] == "json_invalid"


async def _sampling(face: Face, kwargs: Any, prompt: str = "0123456789") -> Any:
    status, body = await face.post("/chat", {"prompt": prompt, "generate_kwargs": kwargs})
    assert status == 200, body
    return face.engine.seen[-1].sampling


async def test_generation_parameters_have_the_defaults_of_the_route() -> None:
    async with serving(ScriptedEngine("x", defaults={"temperature": 0.3, "top_k": 7})) as face:
        sampling = await _sampling(face, {})
        assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (190, 1.0, 10, 1.0)
        sampling = await _sampling(face, None)
        assert (sampling.max_tokens, sampling.temperature, sampling.top_k) == (502, 0.3, 7)


async def test_generation_parameters_reach_the_engine() -> None:
    async with serving(ScriptedEngine("x")) as face:
        assert (await _sampling(face, {"do_sample": False, "temperature": 0.7})).temperature == 0
        assert (await _sampling(face, {"max_new_tokens": 5, "max_length": 2})).max_tokens == 5
        assert (await _sampling(face, {"min_length": 30})).min_tokens == 20
        assert dict((await _sampling(face, {"no_repeat_ngram_size": 2})).extra) == {"no_repeat_ngram_size": 2}


async def test_a_prompt_longer_than_max_length_is_refused() -> None:
    async with serving() as face:
        status, body = await face.post("/chat", {"prompt": "x" * 200})
        assert status == 400
        assert "max_length is 200" in body["detail"]
        status, body = await face.post("/chat", {"prompt": "x" * 600, "generate_kwargs": {"max_new_tokens": 3}})
        assert status == 400
        assert "512" in body["detail"]


async def test_a_long_prompt_loses_its_beginning_on_request() -> None:
    async with serving(ScriptedEngine("!")) as face:
        body = {
            "prompt": "x" * 600 + "end",
            "handle_long_generation": "hole",
            "generate_kwargs": {"max_new_tokens": 12},
        }
        assert (await face.post("/chat", body))[0] == 200
        seen = face.engine.seen[0]
        assert (len(seen.prompt), seen.sampling.max_tokens) == (500, 12)
        assert face.engine.decode(seen.prompt).endswith("xend")


async def test_a_prefix_stands_before_the_prompt_and_is_not_repeated() -> None:
    async with serving(ScriptedEngine("!")) as face:
        assert await face.post("/chat", {"prompt": "b", "prefix": "a"}) == (200, {"Result": "b!"})
        assert face.engine.decode(face.engine.seen[0].prompt) == "ab"


async def test_several_sequences_are_one_text() -> None:
    async with serving(ScriptedEngine("!")) as face:
        body = {"prompt": "a", "generate_kwargs": {"num_return_sequences": 3}}
        assert await face.post("/chat", body) == (200, {"Result": "a!a!a!"})


async def test_what_the_engine_refuses_is_a_bad_request() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as face:
        engine.broken = BadRequest("no such parameter")
        assert await face.post("/chat", {"prompt": "a"}) == (400, {"detail": "no such parameter"})
        body = {"prompt": "a", "generate_kwargs": {"num_return_sequences": 2}}
        assert await face.post("/chat", body) == (400, {"detail": "no such parameter"})


async def test_an_engine_that_fails_is_an_error_of_the_server_and_the_next_request_works() -> None:
    engine = ScriptedEngine("b")
    async with serving(engine) as face:
        engine.broken = RuntimeError("secret detail")
        status, body = await face.post("/chat", {"prompt": "a"})
        assert status == 500
        assert "secret" not in str(body)
        engine.broken = None
        assert await face.post("/chat", {"prompt": "a"}) == (200, {"Result": "ab"})


async def test_punctuation_is_cleaned_up_on_request() -> None:
    async with serving(ScriptedEngine(" do n't , please .")) as face:
        body = {"prompt": "a", "return_full_text": False, "clean_up_tokenization_spaces": True}
        assert await face.post("/chat", body) == (200, {"Result": " don't, please."})


async def test_health_and_root() -> None:
    engine = ScriptedEngine()
    engine.loaded.clear()
    async with serving(engine, ready=False) as face:
        assert await face.get("/") == (200, {"message": "Server is running"})
        for path in ("/health", "/healthz"):
            assert await face.get(path) == (500, {"detail": "Model not initialized"})
        assert (await face.post("/chat", {"prompt": "a"}))[0] == 503
        assert (await face.get("/v1/models"))[0] == 503
        engine.loaded.set()
        await eventually(face.healthy)
        for path in ("/health", "/healthz"):
            assert await face.get(path) == (200, {"status": "Healthy"})
        assert (await face.get("/nowhere"))[0] == 404
        assert (await face.get("/chat"))[0] == 405


async def test_metrics_are_for_prometheus_or_json_as_asked() -> None:
    def reply(generation: Generation) -> str:
        return "four"

    async with serving(ScriptedEngine(reply)) as face:
        await face.post("/chat", {"prompt": "abc"})
        status, text = await face.get("/metrics")
        assert status == 200
        assert 'kaito_inference_generation_tokens_total{model="m"} 4.0' in text
        assert 'kaito_inference_prompt_tokens_total{model="m"} 3.0' in text
        assert 'kaito_inference_requests_total{route="/chat",status="200"} 1.0' in text
        assert "kaito_inference_ready 1.0" in text
        assert "kaito_inference_time_to_first_token_seconds_count 1.0" in text
        status, body = await face.get("/metrics", headers={"Accept": "application/json"})
        assert status == 200
        assert body.keys() == {"gpu_info", "cpu_info"}
        assert (body["gpu_info"] is None) != (body["cpu_info"] is None)


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    async with serving() as face, face.http.get(face.url + "/ui") as response:
        page = await response.text()
        assert response.content_type == "text/html"
        assert "connect-src 'self'" in response.headers["Content-Security-Policy"]
    assert "v1/chat/completions" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
