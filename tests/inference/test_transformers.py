"""The engine ``transformers`` with a real model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference.contract import Contract
from inference.real import MODEL, PROSE, Real, needs, unpacked

pytestmark = [pytest.mark.models, needs("transformers")]


@pytest.fixture(scope="module")
def engine() -> str:
    return "transformers"


class TestTransformers(Contract):
    @pytest.mark.parametrize(
        "kwargs",
        [
            {"num_beams": 3},
            {"num_return_sequences": 3, "num_beams": 3},
            {"no_repeat_ngram_size": 2},
            {"suppress_tokens": [7042]},
            {"prompt_lookup_num_tokens": 2},
        ],
        ids=lambda kwargs: next(iter(kwargs)),
    )
    def test_what_generate_takes_is_forwarded_to_it(
        self, server: Real, bare: Callable[..., str], kwargs: dict[str, Any]
    ) -> None:
        text = "One two one two one two one"
        given = {"do_sample": False, "max_new_tokens": 12, **kwargs}
        answer = server.post("/chat", prompt=text, model="base", return_full_text=False, generate_kwargs=given)
        assert answer["Result"] == bare(text, **given)

    def test_what_generate_takes_changes_nothing_for_those_beside(self, server: Real) -> None:
        def ask(kwargs: dict[str, Any]) -> str:
            given = {"do_sample": False, "max_new_tokens": 12, **kwargs}
            text: str = server.post("/chat", prompt="1, 2, 3,", model="base", generate_kwargs=given)["Result"]
            return text

        kinds: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"no_repeat_ngram_size": 3}, {}]
        alone = [ask(kwargs) for kwargs in kinds]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, kinds)) == alone
        assert alone[0] == alone[3]

    def test_a_client_that_goes_away_ends_what_generate_makes(self, server: Real) -> None:
        kwargs = {"no_repeat_ngram_size": 50, "max_new_tokens": 900, "min_new_tokens": 900}
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{server.url}/chat", json={"prompt": "Once", "generate_kwargs": kwargs}, timeout=1)
        answer = server.post("/chat", prompt="1, 2, 3,", generate_kwargs={"max_new_tokens": 1, "num_beams": 2})
        assert answer["Result"].startswith("1, 2, 3,")
        metrics = httpx2.get(f"{server.url}/metrics", timeout=60).text
        assert "kaito_inference_sequences_running 0.0" in metrics

    def test_what_generate_does_not_take_is_said(self, server: Real) -> None:
        for kwargs in ({"num_beams": -1}, {"suppress_tokens": "all"}):
            body = {"prompt": "x", "generate_kwargs": kwargs}
            response = httpx2.post(f"{server.url}/chat", json=body, timeout=120)
            assert response.status_code in (400, 422), response.text
        assert server.ask("base").startswith("The capital")


@pytest.fixture(scope="module")
def bare() -> Callable[..., str]:
    """An answer of ``generate`` itself, in a process of its own."""

    def answer(text: str, **given: Any) -> str:
        program = str(Path(__file__).with_name("bare_generate.py"))
        words = [sys.executable, program, unpacked(), text, json.dumps(given)]
        said: str = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        return said

    return answer


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
