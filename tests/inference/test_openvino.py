"""The engine ``openvino`` with a real model."""

from __future__ import annotations

import pytest

from inference.contract import Contract
from inference.real import MODEL, PROSE, needs

pytestmark = [pytest.mark.models, needs("openvino")]


@pytest.fixture(scope="module")
def engine() -> str:
    return "openvino"


class TestOpenVino(Contract):
    pass


async def test_openvino_says_what_its_bare_pipeline_says() -> None:
    import openvino_genai

    from kaito.inference.engines.openvino import OpenVino
    from kaito.inference.engines.weights import locate
    from kaito.inference.protocol import Generation, Sampling
    from kaito.inference.settings import Settings

    bare = openvino_genai.LLMPipeline(str(locate(MODEL)), "CPU")
    expected = bare.generate([PROSE], max_new_tokens=24, do_sample=False, apply_chat_template=False).texts[0]
    engine = OpenVino(
        Settings(engine="openvino", model=MODEL, extra={"unpack": "false", "cache_size": "0", "num_kv_blocks": "256"})
    )
    try:
        await engine.load([()])
        generation = Generation(tuple(engine.encode(PROSE, special=True)), Sampling(max_tokens=24, temperature=0.0))
        tokens = [token.id async for step in engine.generate(generation) for token in step.tokens]
        assert engine.decode(tokens) == expected
    finally:
        await engine.aclose()
