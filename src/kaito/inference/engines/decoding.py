"""A batch of sequences that a PyTorch model generates together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, final

import torch
from peft import PeftModel
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kaito.inference.engines.sampling import Sampler
from kaito.inference.errors import BadRequest, RequestError
from kaito.inference.protocol import Generation, Mix, Step, Token


@dataclass(slots=True, eq=False)
class _Row:
    key: int
    request: Generation
    sampler: Sampler
    ends: frozenset[int]
    answer: list[int] = field(default_factory=list)

    def take(self, token: Token) -> Step:
        if token.id in self.ends:
            return Step((), "stop")
        self.answer.append(token.id)
        return Step((token,), "length" if len(self.answer) == self.request.sampling.max_tokens else None)


@final
class Batch:
    """Sequences join between two steps and leave when they are finished.

    The prompts and answers of a batch end at the same place: shorter ones have padding on their left, which the attention
    mask hides. Sequences with other adapters wait until the batch is empty, and so do all where the model's cache is not
    a plain one that can be padded.
    """

    def __init__(self, model: Any, switch: Callable[[Mix], None], ends: frozenset[int], limit: int) -> None:
        self._model = model
        self._switch = switch
        self._ends = ends
        self._limit = limit
        self._waiting: list[_Row] = []
        self._rows: list[_Row] = []
        self._mix: Mix = ()
        self._cache: Any = None
        self._mask: Any = None
        self._cache_name = _cache_name(model)

    @property
    def empty(self) -> bool:
        return not self._rows and not self._waiting

    def add(self, key: int, request: Generation) -> None:
        sampling, ends = request.sampling, self._ends
        for name, value in sampling.extra.items():
            if name != "eos_token_id":
                raise BadRequest(f"The engine transformers has no parameter {name}.", param=name)
            ends = frozenset([value] if isinstance(value, int) else value)
        sampler = Sampler(sampling, ends, self._model.device)
        self._waiting.append(_Row(key, request, sampler, frozenset() if sampling.ignore_eos else ends))

    def remove(self, key: int) -> None:
        self._waiting = [row for row in self._waiting if row.key != key]
        self._keep([place for place, row in enumerate(self._rows) if row.key != key])

    def step(self) -> list[tuple[int, Step | RequestError]]:
        with torch.inference_mode():
            rows = self._newcomers()
            logits = self._prefill(rows) if rows else self._decode()
            rows = rows or self._rows
            steps = [
                (row.key, row.take(row.sampler.choose(logits[place], row.request.prompt, row.answer)))
                for place, row in enumerate(rows)
            ]
            finished = {key for key, step in steps if step.finish}
            self._keep([place for place, row in enumerate(self._rows) if row.key not in finished])
        return list(steps)

    def _newcomers(self) -> list[_Row]:
        """Those who wait and can join, in their order."""
        if not self._waiting or (self._rows and not _plain(self._cache)):
            return []
        if not self._rows:
            self._mix = self._waiting[0].request.mix
            self._switch(self._mix)
        found: list[_Row] = []
        while (
            self._waiting and self._waiting[0].request.mix == self._mix and len(self._rows) + len(found) < self._limit
        ):
            found.append(self._waiting.pop(0))
        return found

    def _prefill(self, rows: list[_Row]) -> Any:
        """The logits after the prompts of ``rows``, which are in the batch from now on."""
        length = max(len(row.request.prompt) for row in rows)
        tokens = torch.tensor([[0] * (length - len(row.request.prompt)) + list(row.request.prompt) for row in rows])
        mask = torch.tensor([[0] * (length - len(row.request.prompt)) + [1] * len(row.request.prompt) for row in rows])
        mask = mask.to(self._model.device)
        cache = DynamicCache(config=self._model.config)
        logits = self._forward(tokens.to(self._model.device), mask, cache)
        if self._rows:
            self._join(cache, mask)
        else:
            self._cache, self._mask = cache, mask
        self._rows += rows
        return logits

    def _decode(self) -> Any:
        tokens = torch.tensor([[row.answer[-1]] for row in self._rows], device=self._model.device)
        self._mask = pad(self._mask, (0, 1), value=1)
        return self._forward(tokens, self._mask, self._cache)

    def _forward(self, tokens: Any, mask: Any, cache: Any) -> Any:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: cache},
        )
        return output.logits[:, -1]

    def _join(self, cache: Any, mask: Any) -> None:
        length = max(self._mask.shape[1], mask.shape[1])
        ours, theirs = length - self._mask.shape[1], length - mask.shape[1]
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = torch.cat([pad(old.keys, (0, 0, ours, 0)), pad(new.keys, (0, 0, theirs, 0))])
            old.values = torch.cat([pad(old.values, (0, 0, ours, 0)), pad(new.values, (0, 0, theirs, 0))])
        self._mask = torch.cat([pad(self._mask, (ours, 0)), pad(mask, (theirs, 0))])

    def _keep(self, places: list[int]) -> None:
        """Leave only the rows at ``places`` in the batch, and no more padding than the longest of them needs."""
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in places]
        if not places:
            self._cache = self._mask = None
            return
        index = torch.tensor(places, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        if (spare := int(self._mask.any(0).int().argmax())) and _plain(self._cache):
            self._mask = self._mask[:, spare:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]


def _plain(cache: Any) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _cache_name(model: Any) -> str:
    """How the model calls its cache: transformers renames the argument, model by model."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "cache" if "cache" in signature(base.forward).parameters else "past_key_values"
