"""What the model server does with a real model, whichever engine it has: the tests of each engine inherit these."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from inference.real import QUESTION, Real, running, started

GRACE = 30
"""Seconds that a cluster gives a pod to end."""
ADAPTERS = {"one": 1.0, "two.v1": 0.5, "zero": 0.0}
"""The adapters of the server, with their strengths."""
ANSWER = "The capital of France is Paris."
ASKED: dict[str, Any] = {"model": "base", "messages": QUESTION}
CHAT: dict[str, Any] = {**ASKED, "temperature": 0}
FACTS = {
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "What is 2 + 2?": "The answer to this classic math problem is 4.",
    "How many days are in a week?": "A week is approximately 7 days.",
}
"""What the model says of them, right or nearly so."""
CLOSE = {"openvino": 0.05, "transformers": 1e-3}
"""How far log probabilities may be from those of plain PEFT in float32; OpenVINO computes with 16 bits."""
WIDTHS = {"self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "mlp.down_proj": (576, 1536)}


def write_adapters(root: Path) -> None:
    for seed, name in enumerate(ADAPTERS):
        write_adapter(root / name, seed)


def write_adapter(directory: Path, seed: int) -> None:
    """An adapter with random weights, which changes what the model says."""
    import numpy

    from kaito.inference import lora

    random = numpy.random.default_rng(seed)

    def noise(*shape: int) -> Any:
        return random.normal(0, 0.08, shape).astype(numpy.float32)

    modules = {
        f"model.layers.{layer}.{module}": (noise(4, inputs), noise(outputs, 4))
        for layer in range(30)
        for module, (outputs, inputs) in WIDTHS.items()
    }
    lora.write(directory, modules, "smol")


@contextmanager
def with_adapters(engine: str, root: Path, *flags: str) -> Iterator[Real]:
    """A server with the adapters below ``root``."""
    environ = {name: str(strength) for name, strength in ADAPTERS.items() if strength != 1}
    with running(engine, f"--adapters-dir={root}", "--max-model-len=1024", *flags, environ=environ) as real:
        yield real


def curl(server: Real, path: str, body: Any = None, *, words: Sequence[str] = ()) -> tuple[int, Any]:
    """Status and content, which is decoded where it is JSON; ``body`` is posted."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl")
    command = [program, "--silent", "--write-out", "\n%{content_type}\n%{http_code}", f"{server.url}{path}", *words]
    text = None
    if body is not None:
        command += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
        text = body if isinstance(body, str) else json.dumps(body)
    done = subprocess.run(command, input=text, capture_output=True, check=True, timeout=120, text=True)
    content, kind, status = done.stdout.rsplit("\n", 2)
    return int(status), json.loads(content) if kind == "application/json" else content


def api(server: Real) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


class Contract:
    """Needs the fixtures ``server``, a server with the adapters, and ``engine``, its name."""

    def test_chat_by_curl(self, server: Real) -> None:
        status, answer = curl(server, "/chat", {**ASKED, "generate_kwargs": {"do_sample": False}})
        assert (status, answer["Result"]) == (200, str({"role": "assistant", "content": ANSWER}))
        status, answer = curl(server, "/chat", {**ASKED, "generate_kwargs": None})
        assert status == 200
        assert answer["Result"].startswith("{'role': 'assistant', 'content': ")

    def test_a_prompt_is_continued(self, server: Real) -> None:
        def result(**body: Any) -> str:
            kwargs = {"do_sample": False, "max_new_tokens": 4}
            status, answer = curl(server, "/chat", {"model": "base", "generate_kwargs": kwargs, **body})
            assert status == 200, answer
            text: str = answer["Result"]
            return text

        text = "The capital of France is"
        assert result(prompt=text).startswith(f"{text} Paris")
        assert result(prompt=text, return_full_text=False).startswith(" Paris")
        assert result(prompt=" France is", prefix="The capital of").startswith(" France is Paris")
        assert result(prompt=text, clean_up_tokenization_spaces=True).startswith(f"{text} Paris")
        kwargs = {"do_sample": False, "max_length": 12, "num_return_sequences": 2}
        assert result(prompt=text, generate_kwargs=kwargs).count(f"{text} Paris") == 2
        assert result(prompt="x " * 2000 + text, handle_long_generation="hole", return_full_text=False)

    @pytest.mark.parametrize(
        ("body", "expected", "detail"),
        [
            ({}, 400, "Text generation parameter prompt required"),
            ({"prompt": ""}, 400, "Text generation parameter prompt required"),
            ({"messages": []}, 400, "Conversational parameter messages required"),
            ({"prompt": 3}, 422, "prompt"),
            ({"prompt": "x", "generate_kwargs": 3}, 422, "generate_kwargs"),
            ({"prompt": "x", "generate_kwargs": {"temperature": -1}}, 422, "temperature"),
            ({"messages": [{"role": "user"}]}, 422, "content"),
            ({"prompt": "x" * 30_000}, 400, "max_length"),
            ({"prompt": "x " * 3000, "generate_kwargs": {"max_new_tokens": 1}}, 400, "1024"),
            ({"prompt": "x", "model": "other"}, 404, "other"),
            ({"prompt": "x", "generate_kwargs": {"no_such_thing": 1}}, 400, "no_such_thing"),
            ("{", 422, "json_invalid"),
        ],
    )
    def test_what_is_wrong_with_a_chat_is_said(self, server: Real, body: Any, expected: int, detail: str) -> None:
        status, answer = curl(server, "/chat", body)
        assert status == expected, answer
        assert detail in json.dumps(answer["detail"])

    def test_the_routes_beside_chat_by_curl(self, server: Real) -> None:
        assert curl(server, "/") == (200, {"message": "Server is running"})
        for path in ("/health", "/healthz"):
            assert curl(server, path) == (200, {"status": "Healthy"})
        status, answer = curl(server, "/metrics", words=("-H", "Accept: application/json"))
        assert status == 200
        assert answer.keys() == {"gpu_info", "cpu_info"}
        assert "/v1/chat/completions" in curl(server, "/openapi.json")[1]["paths"]
        assert "kaito_inference_ready 1.0" in curl(server, "/metrics")[1]
        assert "<title>kaito chat</title>" in curl(server, "/ui")[1]
        assert curl(server, "/docs")[0] == 200
        assert curl(server, "/nowhere") == (404, {"detail": "Not Found"})
        assert curl(server, "/chat")[0] == 405

    def test_the_client_of_the_api_understands_all_of_it(self, server: Real) -> None:
        with api(server) as client:
            assert [model.id for model in client.models.list()] == ["smol", "base", *ADAPTERS]
            assert client.models.retrieve("two.v1").id == "two.v1"
            chat = client.chat.completions.create(
                **CHAT, logprobs=True, top_logprobs=0, seed=1, n=2, max_completion_tokens=12, user="me"
            )
            assert [choice.message.content for choice in chat.choices] == [ANSWER] * 2
            assert {choice.finish_reason for choice in chat.choices} == {"stop"}
            assert chat.usage
            assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
            logprobs = chat.choices[0].logprobs
            assert logprobs
            assert logprobs.content
            assert "".join(token.token for token in logprobs.content) == ANSWER
            assert all(token.logprob <= 0 for token in logprobs.content)
            assert client.chat.completions.create(**CHAT, stop=[" Paris"]).choices[0].message.content == (
                "The capital of France is"
            )
            cut = client.chat.completions.create(**CHAT, max_tokens=3).choices[0]
            assert (cut.message.content, cut.finish_reason) == ("The capital of", "length")
            text = client.completions.create(
                model="base", prompt=["1, 2, 3,", "a, b, c,"], temperature=0, max_tokens=3, echo=True, logprobs=0
            )
            assert [choice.text[:11] for choice in text.choices] == ["1, 2, 3, 4,", "a, b, c, d,"]
            assert text.choices[0].logprobs
            assert len(text.choices[0].logprobs.token_logprobs or ()) == 3

    def test_what_is_wrong_has_the_errors_of_the_api(self, server: Real) -> None:
        with api(server) as client:
            with pytest.raises(openai.NotFoundError, match="other") as missing:
                client.chat.completions.create(**{**CHAT, "model": "other"})
            assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
            with pytest.raises(openai.BadRequestError) as long:
                client.completions.create(model="base", prompt="x " * 3000)
            assert long.value.code == "context_length_exceeded"
            for wrong in ({"temperature": 9}, {"n": 0}, {"logit_bias": {"1": 5}}, {"extra_body": {"colour": "red"}}):
                with pytest.raises(openai.BadRequestError) as error:
                    client.chat.completions.create(**{**CHAT, **wrong})
                assert error.value.param in {"temperature", "n", "logit_bias", "colour"}
            with pytest.raises(openai.BadRequestError, match="tools"):
                client.chat.completions.create(**CHAT, tools=[{"type": "function", "function": {"name": "f"}}])

    @pytest.mark.parametrize("question", FACTS)
    def test_every_engine_says_the_same_of_facts(self, server: Real, question: str) -> None:
        with api(server) as client:
            asked: Any = [{"role": "user", "content": question}]
            said = client.chat.completions.create(model="base", messages=asked, temperature=0, max_tokens=24)
        assert said.choices[0].message.content == FACTS[question]

    def test_a_stream_is_the_whole_answer(self, server: Real) -> None:
        with api(server) as client:
            whole = client.chat.completions.create(**CHAT)
            parts = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == ANSWER
        assert parts[-1].usage == whole.usage
        assert whole.choices[0].finish_reason == "stop"

    def test_requests_at_once_answer_as_alone(self, server: Real) -> None:
        def ask(index: int) -> str:
            body = {
                "prompt": "Numbers: " + "1, 2, 3, " * (index + 1),
                "temperature": 0,
                "max_tokens": 8,
                "model": "base",
            }
            text: str = server.post("/v1/completions", **body)["choices"][0]["text"]
            return text

        alone = [ask(index) for index in range(4)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, [0, 1, 2, 3, 3, 2, 1, 0])) == [*alone, *reversed(alone)]

    def test_a_seed_gives_the_same_answer_again(self, server: Real) -> None:
        def ask(seed: int) -> str:
            body = {"prompt": "Once upon a time", "temperature": 1.2, "max_tokens": 12, "seed": seed}
            text: str = server.post("/v1/completions", **body)["choices"][0]["text"]
            return text

        assert ask(1) == ask(1)
        assert len({ask(seed) for seed in (1, 2, 3)}) > 1

    def test_a_client_that_goes_away_frees_its_place(self, server: Real) -> None:
        body = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with httpx2.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as response:
            next(response.iter_lines())
        for _ in range(1000):
            metrics = httpx2.get(f"{server.url}/metrics", timeout=60).text
            if "kaito_inference_sequences_running 0.0" in metrics:
                break
        assert "kaito_inference_sequences_running 0.0" in metrics

    def test_sampling_is_honoured(self, server: Real) -> None:
        body = {"prompt": "1, 2, 3,", "temperature": 2.0, "top_k": 1, "max_tokens": 6, "model": "base"}
        greedy = server.post("/v1/completions", **body)["choices"][0]["text"]
        assert greedy == server.post("/v1/completions", **{**body, "temperature": 0})["choices"][0]["text"]
        body = {"prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 20, "min_tokens": 20, "model": "base"}
        assert server.post("/v1/completions", **body)["usage"]["completion_tokens"] == 20

    def test_strength_zero_is_the_base(self, server: Real) -> None:
        assert server.likeliest("zero") == server.likeliest("base")
        assert server.ask("zero") == server.ask("base")

    def test_adapters_are_what_plain_peft_makes_of_them(
        self, engine: str, server: Real, reference: dict[str, float]
    ) -> None:
        told = {model: server.likeliest(model, 1)[0][1] for model in ("base", "one", "two.v1", "one+two.v1", "smol")}
        expected = {model: reference["one+two.v1" if model == "smol" else model] for model in told}
        assert told == pytest.approx(expected, abs=CLOSE[engine])
        assert len({round(logprob, 3) for logprob in told.values()}) == 4

    def test_adapters_are_cut_to_the_largest_rank_on_request(
        self, engine: str, adapters: Path, reference: dict[str, float]
    ) -> None:
        with with_adapters(engine, adapters, "--combination-type=svd") as real:
            assert real.likeliest("smol", 1)[0][1] == pytest.approx(reference["cut"], abs=CLOSE[engine])
            assert real.likeliest("one", 1)[0][1] == pytest.approx(reference["one"], abs=CLOSE[engine])

    def test_a_server_that_is_told_to_stop_finishes_its_answers(self, engine: str) -> None:
        with running(engine) as real, ThreadPoolExecutor(1) as pool:
            body = {"prompt": "Once", "max_tokens": 40, "ignore_eos": True}
            answer = pool.submit(real.post, "/v1/completions", **body)
            while "sequences_running 1.0" not in httpx2.get(f"{real.url}/metrics", timeout=60).text:
                pass
            real.process.terminate()
            assert answer.result(120)["usage"]["completion_tokens"] == 40
            assert real.process.wait(60) == 0

    @pytest.mark.parametrize("seconds", [0, 1.5, 4])
    def test_a_server_that_is_told_to_stop_while_it_loads_does_not_go_on(self, engine: str, seconds: float) -> None:
        with started(engine) as real:
            with suppress(subprocess.TimeoutExpired):
                real.process.wait(seconds)
            real.process.terminate()
            assert real.process.wait(GRACE) == 0, "".join(real.log)
