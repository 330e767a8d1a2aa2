"""Real engines with a real model: SmolLM2 with 135 million parameters."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from inference.real import MODEL, QUESTION, Real, needs, running, started

pytestmark = [pytest.mark.models, pytest.mark.xdist_group("models")]

PROSE = "The quick brown fox jumps over the lazy"
ENGINES = [pytest.param(engine, marks=needs(engine)) for engine in ("openvino", "transformers")]
GRACE = 30
"""Seconds that a cluster gives a pod to end."""
WIDTHS = {"self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "mlp.down_proj": (576, 1536)}


def _write_adapter(directory: Path, seed: int) -> None:
    """An adapter with random weights, which changes what the model says."""
    import numpy

    from kaito.inference import lora

    random = numpy.random.default_rng(seed)

    def noise(*shape: int) -> Any:
        return random.normal(0, 0.05, shape).astype(numpy.float32)

    modules = {
        f"model.layers.{layer}.{module}": (noise(4, inputs), noise(outputs, 4))
        for layer in range(0, 30, 3)
        for module, (outputs, inputs) in WIDTHS.items()
    }
    lora.write(directory, modules, "smol")


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """A server with three adapters, one of them with the strength 0."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two.v1", "zero")):
        _write_adapter(root / name, seed)
    with running(request.param, f"--adapters-dir={root}", environ={"zero": "0.0", "two.v1": "0.5"}) as real:
        yield real


def test_chat_by_curl(server: Real) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    body = {"model": "base", "messages": QUESTION, "generate_kwargs": {"do_sample": False}}
    command = [
        curl,
        "-s",
        "-X",
        "POST",
        f"{server.url}/chat",
        "-H",
        "Content-Type: application/json",
        "-d",
        json.dumps(body),
    ]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert "The capital of France is Paris." in answer["Result"]


def test_a_prompt_is_continued(server: Real) -> None:
    body = {"prompt": "The capital of France is", "generate_kwargs": {"do_sample": False, "max_length": 12}}
    assert server.post("/chat", model="base", **body)["Result"].startswith("The capital of France is Paris")


def test_a_stream_is_the_whole_answer(server: Real) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = QUESTION
        options: Any = {"model": "base", "messages": messages, "temperature": 0}
        whole = client.chat.completions.create(**options)
        parts = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert (
        "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        == whole.choices[0].message.content
    )
    assert parts[-1].usage == whole.usage
    assert whole.choices[0].finish_reason == "stop"


def test_requests_at_once_answer_as_alone(server: Real) -> None:
    def ask(index: int) -> str:
        body = {"prompt": "Numbers: " + "1, 2, 3, " * (index + 1), "temperature": 0, "max_tokens": 8, "model": "base"}
        text: str = server.post("/v1/completions", **body)["choices"][0]["text"]
        return text

    alone = [ask(index) for index in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, [0, 1, 2, 3, 3, 2, 1, 0])) == [*alone, *reversed(alone)]


def test_a_seed_gives_the_same_answer_again(server: Real) -> None:
    def ask(seed: int) -> str:
        body = {"prompt": "Once upon a time", "temperature": 1.2, "max_tokens": 12, "seed": seed}
        text: str = server.post("/v1/completions", **body)["choices"][0]["text"]
        return text

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in (1, 2, 3)}) > 1


def test_a_client_that_goes_away_frees_its_place(server: Real) -> None:
    body = {"prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with httpx2.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as response:
        next(response.iter_lines())
    for _ in range(1000):
        metrics = httpx2.get(f"{server.url}/metrics", timeout=60).text
        if "kaito_inference_sequences_running 0.0" in metrics:
            break
    assert "kaito_inference_sequences_running 0.0" in metrics


def test_sampling_is_honoured(server: Real) -> None:
    body = {"prompt": "1, 2, 3,", "temperature": 2.0, "top_k": 1, "max_tokens": 6, "model": "base"}
    greedy = server.post("/v1/completions", **body)["choices"][0]["text"]
    assert greedy == server.post("/v1/completions", **{**body, "temperature": 0})["choices"][0]["text"]
    body = {"prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 20, "min_tokens": 20, "model": "base"}
    assert server.post("/v1/completions", **body)["usage"]["completion_tokens"] == 20


def test_a_parameter_that_the_engine_does_not_know_is_refused(server: Real) -> None:
    body = {"prompt": "x", "generate_kwargs": {"no_such_thing": 1}}
    response = httpx2.post(f"{server.url}/chat", json=body, timeout=60)
    assert response.status_code == 400
    assert "no_such_thing" in response.json()["detail"]


def test_strength_zero_is_the_base(server: Real) -> None:
    assert server.ask("zero") == server.ask("base")
    assert server.logprob("zero") == server.logprob("base")


def test_adapters_change_the_model_each_in_its_way(server: Real) -> None:
    logprobs = [server.logprob(model) for model in ("base", "one", "two.v1", "one+two.v1")]
    assert len({round(logprob, 3) for logprob in logprobs}) == 4
    assert server.logprob("smol") == pytest.approx(server.logprob("one+two.v1"), abs=2e-2)
    assert server.logprob("base") == logprobs[0]


@needs("openvino")
@needs("transformers")
def test_both_engines_say_the_same_with_the_same_adapters(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        _write_adapter(tmp_path / name, seed)
    told = {}
    for engine in ("openvino", "transformers"):
        with running(engine, f"--adapters-dir={tmp_path}", environ={"two": "0.5"}) as real:
            told[engine] = [real.logprob(model) for model in ("base", "one", "two", "smol")]
    assert told["openvino"] == pytest.approx(told["transformers"], abs=0.05)
    assert len({round(logprob, 2) for logprob in told["transformers"]}) == 4


@needs("openvino")
async def test_openvino_says_what_its_bare_pipeline_says() -> None:
    import openvino_genai

    from kaito.inference.engines.openvino import OpenVino
    from kaito.inference.engines.weights import locate
    from kaito.inference.protocol import Generation, Sampling
    from kaito.inference.settings import Settings

    bare = openvino_genai.LLMPipeline(str(locate(MODEL)), "CPU")
    expected = bare.generate([PROSE], max_new_tokens=24, do_sample=False, apply_chat_template=False).texts[0]
    engine = OpenVino(Settings(engine="openvino", model=MODEL, extra={"unpack": "false"}))
    try:
        await engine.load([()])
        generation = Generation(tuple(engine.encode(PROSE, special=True)), Sampling(max_tokens=24, temperature=0.0))
        tokens = [token.id async for step in engine.generate(generation) for token in step.tokens]
        assert engine.decode(tokens) == expected
    finally:
        await engine.aclose()


@needs("transformers")
async def test_transformers_says_what_bare_generate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import tqdm
    import transformers

    from kaito.inference.engines.transformers import Transformers
    from kaito.inference.engines.weights import locate
    from kaito.inference.protocol import Generation, Sampling
    from kaito.inference.settings import Settings

    # A progress bar leaves a thread behind.
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    path = locate(MODEL)
    bare = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    engine = Transformers(Settings(engine="transformers", model=MODEL))
    try:
        await engine.load([()])
        prompt = engine.encode(PROSE, special=True)
        with torch.inference_mode():
            expected = bare.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[
                0, len(prompt) :
            ].tolist()
        generation = Generation(tuple(prompt), Sampling(max_tokens=24, temperature=0.0, ignore_eos=True))
        assert [token.id async for step in engine.generate(generation) for token in step.tokens] == expected
    finally:
        await engine.aclose()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_that_is_told_to_stop_finishes_its_answers(engine: str) -> None:
    with running(engine) as real, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "Once", "max_tokens": 40, "ignore_eos": True}
        answer = pool.submit(real.post, "/v1/completions", **body)
        while "sequences_running 1.0" not in httpx2.get(f"{real.url}/metrics", timeout=60).text:
            pass
        real.process.terminate()
        assert answer.result(120)["usage"]["completion_tokens"] == 40
        assert real.process.wait(60) == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seconds", [0, 1.5, 4])
def test_a_server_that_is_told_to_stop_while_it_loads_does_not_go_on(engine: str, seconds: float) -> None:
    with started(engine) as real:
        with suppress(subprocess.TimeoutExpired):
            real.process.wait(seconds)
        real.process.terminate()
        assert real.process.wait(GRACE) == 0, "".join(real.log)
