"""The routes of the OpenAI API, by hand and with its own client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from inference.scripted import Face, ScriptedEngine, serving
from kaito.inference.protocol import Adapter, Generation

USER = [{"role": "user", "content": "hi"}]


async def _events(face: Face, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, whose end is checked."""
    async with face.http.post(face.url + path, json=body | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        lines = [line for line in (await response.text()).split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_chat_completion() -> None:
    async with serving(ScriptedEngine("Hello!")) as face:
        status, body = await face.post("/v1/chat/completions", {"model": "m", "messages": USER})
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "m"
    assert body["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 6, "total_tokens": 14}


async def test_a_chat_stream_with_usage() -> None:
    async with serving(ScriptedEngine("Hey")) as face:
        body = {"messages": USER, "stream_options": {"include_usage": True}}
        events = await _events(face, "/v1/chat/completions", body)
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hey"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}


async def test_a_stop_text_ends_the_answer_and_is_not_part_of_it() -> None:
    async with serving(ScriptedEngine("one, two, three")) as face:
        body = {"messages": USER, "stop": [", t", "zero"]}
        _, whole = await face.post("/v1/chat/completions", body)
        events = await _events(face, "/v1/chat/completions", body)
        assert whole["choices"][0]["message"]["content"] == "one"
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "one"
        assert face.engine.running == 0
        assert face.engine.cancelled == 2


async def test_what_begins_like_a_stop_text_and_is_none_is_given_out() -> None:
    async with serving(ScriptedEngine("a##")) as face:
        _, body = await face.post("/v1/completions", {"prompt": "x", "stop": "###"})
        assert body["choices"][0]["text"] == "a##"


async def test_max_tokens_end_the_answer() -> None:
    async with serving(ScriptedEngine("abcdefgh" * 10)) as face:
        for field in ("max_tokens", "max_completion_tokens"):
            _, body = await face.post("/v1/chat/completions", {"messages": USER, field: 3})
            assert body["choices"][0]["message"]["content"] == "abc"
            assert body["choices"][0]["finish_reason"] == "length"
        _, body = await face.post("/v1/completions", {"prompt": "x"})
        assert len(body["choices"][0]["text"]) == 16


async def test_completions_of_several_prompts() -> None:
    def reply(generation: Generation) -> str:
        return "".join(map(chr, generation.prompt)).upper()

    async with serving(ScriptedEngine(reply)) as face:
        _, body = await face.post("/v1/completions", {"prompt": ["ab", "c"], "n": 2, "echo": True})
        assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
            (0, "abAB"),
            (1, "abAB"),
            (2, "cC"),
            (3, "cC"),
        ]
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        _, body = await face.post("/v1/completions", {"prompt": [104, 105]})
        assert body["choices"][0]["text"] == "HI"
        events = await _events(face, "/v1/completions", {"prompt": ["ab", "c"]})
        texts = {0: "", 1: ""}
        for event in events:
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == {0: "AB", 1: "C"}


async def test_log_probabilities() -> None:
    async with serving(ScriptedEngine("ab")) as face:
        body = {"messages": USER, "logprobs": True, "top_logprobs": 2}
        _, answer = await face.post("/v1/chat/completions", body)
        content = answer["choices"][0]["logprobs"]["content"]
        assert [entry["token"] for entry in content] == ["a", "b"]
        assert content[0]["bytes"] == [97]
        assert [other["token"] for other in content[0]["top_logprobs"]] == ["a", "?"]
        _, answer = await face.post("/v1/completions", {"prompt": "x", "logprobs": 2})
        assert answer["choices"][0]["logprobs"]["text_offset"] == [0, 1]
        status, answer = await face.post("/v1/chat/completions", {**body, "top_logprobs": 9})
        assert status == 400
        assert answer["error"]["param"] == "top_logprobs"


async def test_each_sequence_has_a_seed_of_its_own() -> None:
    async with serving() as face:
        await face.post("/v1/completions", {"prompt": "x", "n": 2, "seed": 7})
        assert sorted(generation.sampling.seed or 0 for generation in face.engine.seen) == [7, 8]


async def test_sampling_reaches_the_engine_above_what_the_model_says() -> None:
    async with serving(ScriptedEngine(defaults={"temperature": 0.3, "top_p": 0.8})) as face:
        await face.post(
            "/v1/chat/completions", {"messages": USER, "temperature": 0, "top_k": -1, "presence_penalty": 1}
        )
        sampling = face.engine.seen[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.presence_penalty) == (0, 0.8, 0, 1)


async def test_json_output_where_the_engine_has_it() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    async with serving(ScriptedEngine("1", json_schema=True)) as face:
        assert (await face.post("/v1/chat/completions", {"messages": USER, "response_format": wanted}))[0] == 200
        assert face.engine.seen[0].sampling.json_schema == '{"type": "integer"}'
    async with serving() as face:
        status, body = await face.post("/v1/chat/completions", {"messages": USER, "response_format": wanted})
        assert (status, body["error"]["param"]) == (400, "response_format")


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def test_tool_calls_where_the_template_has_them() -> None:
    said = 'Let me see.<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    async with serving(ScriptedEngine(said, tools=True)) as face:
        _, body = await face.post("/v1/chat/completions", {"messages": USER, "tools": [TOOL]})
        choice = body["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "Let me see."
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
        assert face.engine.decode(face.engine.seen[0].prompt).startswith("[weather]")
        events = await _events(face, "/v1/chat/completions", {"messages": USER, "tools": [TOOL]})
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert events[-1]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    async with serving() as face:
        status, body = await face.post("/v1/chat/completions", {"messages": USER, "tools": [TOOL]})
        assert (status, body["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/v1/chat/completions", {"messages": USER, "model": "other"}, 404, "model_not_found", "model"),
        ("/v1/chat/completions", {}, 400, None, "messages"),
        ("/v1/chat/completions", {"messages": []}, 400, None, "messages"),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, 400, None, "messages"),
        ("/v1/chat/completions", {"messages": USER, "colour": "red"}, 400, None, "colour"),
        ("/v1/chat/completions", {"messages": USER, "temperature": 9}, 400, None, "temperature"),
        ("/v1/chat/completions", {"messages": USER, "n": 0}, 400, None, "n"),
        ("/v1/chat/completions", {"messages": USER, "stop": [""]}, 400, None, "stop"),
        ("/v1/chat/completions", {"messages": USER, "logit_bias": {"1": 5}}, 400, None, "logit_bias"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 600}]}, 400, "context_length_exceeded", "prompt"),
        ("/v1/completions", {"prompt": ""}, 400, None, "prompt"),
        ("/v1/completions", {"prompt": []}, 400, None, "prompt"),
        ("/v1/nothing", {}, 404, None, None),
    ],
)  # fmt: skip
async def test_errors_have_the_form_of_the_api(
    path: str, body: dict[str, Any], status: int, code: str | None, param: str | None
) -> None:
    async with serving() as face:
        for streamed in ({}, {"stream": True}):
            found, answer = await face.post(path, body | streamed)
            assert found == status
            assert answer["error"].keys() == {"message", "type", "param", "code"}
            assert (answer["error"]["code"], answer["error"]["param"]) == (code, param)
        assert not face.engine.seen


async def test_a_body_that_is_no_json_object() -> None:
    async with serving() as face:
        for data in (b"{", b"[]", b"\xff"):
            async with face.http.post(
                face.url + "/v1/completions", data=data, headers={"Content-Type": "application/json"}
            ) as response:
                assert response.status == 400
                assert "error" in await response.json()


async def test_an_error_before_the_first_token_has_its_own_status_in_a_stream() -> None:
    engine = ScriptedEngine()
    async with serving(engine) as face:
        engine.broken = RuntimeError("broken")
        status, body = await face.post("/v1/chat/completions", {"messages": USER, "stream": True})
        assert (status, body["error"]["type"]) == (500, "server_error")


async def test_models_are_the_base_the_adapters_and_all_together() -> None:
    adapters = (Adapter("a.b", "/a", 0.5), Adapter("c", "/c"))
    async with serving(adapters=adapters, stand_in="tiny") as face:
        _, body = await face.get("/v1/models")
        listed = {entry["id"]: (entry["adapters"], entry["parent"]) for entry in body["data"]}
        assert listed == {
            "m": ({"a.b": 0.5, "c": 1.0}, None),
            "base": ({}, "m"),
            "a.b": ({"a.b": 0.5}, "m"),
            "c": ({"c": 1.0}, "m"),
        }
        assert {entry["stand_in"] for entry in body["data"]} == {"tiny"}
        assert (await face.get("/v1/models/a.b"))[1]["id"] == "a.b"
        assert (await face.get("/v1/models/zzz"))[1]["error"]["code"] == "model_not_found"
        for model in ("m", "base", "a.b", "c+a.b", None):
            assert (await face.post("/v1/completions", {"prompt": "x", "model": model}))[0] == 200
        mixes = [tuple(adapter.name for adapter in generation.mix) for generation in face.engine.seen]
        assert mixes == [("a.b", "c"), (), ("a.b",), ("a.b", "c"), ("a.b", "c")]
        assert (await face.post("/v1/completions", {"prompt": "x", "model": "c+zzz"}))[0] == 404


async def test_the_client_of_the_api_understands_all_of_it() -> None:
    async with (
        serving(ScriptedEngine("Hello")) as face,
        openai.AsyncOpenAI(base_url=f"{face.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["m"]
        messages: Any = USER
        whole = await client.chat.completions.create(model="m", messages=messages, logprobs=True)
        assert whole.choices[0].message.content == "Hello"
        assert whole.usage
        assert whole.usage.completion_tokens == 5
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"
        text = await client.completions.create(model="m", prompt="x")
        assert text.choices[0].text == "Hello"
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="x")
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await client.completions.create(model="m", prompt="x", temperature=7)
