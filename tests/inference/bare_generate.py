"""A program that answers with ``generate`` alone: ``python bare_generate.py MODEL TEXT PARAMETERS``, these as JSON.

Of several sequences it says one after another.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(directory: str, text: str, parameters: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    prompt = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        said = model.generate(**prompt, **json.loads(parameters))
    texts = tokenizer.batch_decode(said[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    print(json.dumps("".join(texts)))


if __name__ == "__main__":
    main(*sys.argv[1:])
