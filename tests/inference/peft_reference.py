"""A program that says what PEFT alone makes of the adapters ``one`` and half of ``two.v1``: ``python peft_reference.py MODEL ADAPTERS TEXT``.

For each combination the log probability of the likeliest token after the text, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

HALF = 0.5


def main(directory: str, adapters: Path, text: str) -> None:
    tokens = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(directory)
    model = PeftModel.from_pretrained(base, adapters / "one", adapter_name="one")
    model.load_adapter(adapters / "two.v1", adapter_name="two")
    model.eval()

    def likeliest() -> float:
        with torch.inference_mode():
            return float(model(**tokens).logits[0, -1].log_softmax(-1).max())

    with model.disable_adapter():
        said = {"base": likeliest()}
    model.add_weighted_adapter(["one", "two"], [1.0, HALF], "cut", combination_type="svd")
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling["two"] *= HALF
    for name, active in (("one", "one"), ("two.v1", "two"), ("one+two.v1", ["one", "two"]), ("cut", "cut")):
        model.base_model.set_adapter(active)
        said[name] = likeliest()
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
