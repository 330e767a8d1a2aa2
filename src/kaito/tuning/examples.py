"""From examples to tokens, and which of them are learned. Pure; any tokenizer of transformers' will do.

What the model is given is not learned, what it is to say is, with the token that ends it: a model that never sees an end goes
on for ever. Padding is masked by its length, so that a padding token which also ends texts can still be learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kaito.tuning.data import Example
from kaito.tuning.errors import DataError

IGNORED = -100
"""The label of a token that is not learned; what torch's losses leave out."""


class Tokenizer(Protocol):
    eos_token_id: int | None
    chat_template: str | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    input_ids: list[int]
    labels: list[int]


def encode_all(examples: Iterable[Example], tokenizer: Tokenizer, max_length: int) -> tuple[list[Encoded], int]:
    """All examples of which something is learned, and how many were cut. Raises DataError where nothing is left."""
    encoded, cut, seen = [], 0, 0
    for example in examples:
        seen += 1
        ids, labels = _encode(example, tokenizer)
        cut += len(ids) > max_length
        ids, labels = ids[:max_length], labels[:max_length]
        if any(label != IGNORED for label in labels):
            encoded.append(Encoded(ids, labels))
    if seen and not encoded:
        raise DataError(f"no answer is left of the {seen} examples when they are cut to {max_length} tokens")
    return encoded, cut


def _encode(example: Example, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if example.messages:
        return _encode_chat(example.messages, tokenizer, end)
    if example.prompt:
        if tokenizer.chat_template:
            chat = ({"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.text})
            return _encode_chat(chat, tokenizer, end)
        given = tokenizer.encode(example.prompt)
        learned = tokenizer.encode(_joined(example.prompt, example.text), add_special_tokens=False) + end
        return given + learned, [IGNORED] * len(given) + learned
    ids = tokenizer.encode(example.text)
    ids = ids if ids[-1:] == end else ids + end
    return ids, list(ids)


def _joined(prompt: str, completion: str) -> str:
    return completion if prompt[-1:].isspace() or completion[:1].isspace() else f" {completion}"


def _encode_chat(
    messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, end: list[int]
) -> tuple[list[int], list[int]]:
    if not tokenizer.chat_template:
        return _encode_plain_chat(messages, tokenizer, end)
    ids: list[int] = []
    labels: list[int] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        given = _templated(tokenizer, messages[:number], True)
        whole = _templated(tokenizer, messages[: number + 1], False)
        start = _common(given, whole)
        # What a template writes after an answer, such as a line break, is learned up to the end of the turn.
        answer = whole[start:]
        learned = len(answer) if end and end[0] not in answer else _last(answer, end) if end else len(answer)
        labels = (labels + [IGNORED] * (start - len(labels)))[:start]
        labels += answer[:learned] + [IGNORED] * (len(answer) - learned)
        ids = whole
    if end and end[0] not in ids[-3:]:
        ids, labels = ids + end, labels + end
    return ids, labels


def _templated(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], generation: bool) -> list[int]:
    if not messages:
        return []
    try:
        ids = tokenizer.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=generation, return_dict=False
        )
    except Exception as error:  # whatever a template of a model's raises
        raise DataError(f"the model's chat template refuses a chat: {error}") from error
    return list(ids)


def _encode_plain_chat(
    messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, end: list[int]
) -> tuple[list[int], list[int]]:
    """For a model without a chat template: a line for each message."""
    ids: list[int] = []
    labels: list[int] = []
    for message in messages:
        given = tokenizer.encode(f"{message['role']}: ", add_special_tokens=not ids)
        said = tokenizer.encode(message["content"], add_special_tokens=False)
        said += end if message["role"] == "assistant" else tokenizer.encode("\n", add_special_tokens=False)
        ids += given + said
        labels += [IGNORED] * len(given) + (said if message["role"] == "assistant" else [IGNORED] * len(said))
    return ids, labels


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _last(ids: Sequence[int], end: list[int]) -> int:
    """One past the last end token."""
    return max(at for at, token in enumerate(ids, start=1) if token == end[0])


def pad(batch: Sequence[Encoded], pad_id: int) -> dict[str, list[list[int]]]:
    """The batch as lists of one length, padded at the right."""
    width = max(len(each.input_ids) for each in batch)
    return {
        "input_ids": [each.input_ids + [pad_id] * (width - len(each.input_ids)) for each in batch],
        "labels": [each.labels + [IGNORED] * (width - len(each.labels)) for each in batch],
        "attention_mask": [[1] * len(each.input_ids) + [0] * (width - len(each.input_ids)) for each in batch],
    }
