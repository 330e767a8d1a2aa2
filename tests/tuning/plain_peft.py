"""A program that answers with an adapter by PEFT alone: ``python plain_peft.py MODEL ADAPTER|- QUESTION``."""

from __future__ import annotations

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: str, adapter: str, question: str) -> None:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    answering = AutoModelForCausalLM.from_pretrained(model)
    if adapter != "-":
        answering = PeftModel.from_pretrained(answering, adapter)
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    out = answering.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    print("answer:", tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    print("ended:", out[0, -1].item() == tokenizer.eos_token_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
