"""The engine ``transformers`` with a real model."""

from __future__ import annotations

import pytest

from inference.contract import Contract
from inference.real import MODEL, PROSE, needs

pytestmark = [pytest.mark.models, needs("transformers")]


@pytest.fixture(scope="module")
def engine() -> str:
    return "transformers"


class TestTransformers(Contract):
    pass


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
