"""The next token of one sequence, from the model's logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, final

import torch
from transformers.generation import logits_process as processors

from kaito.inference.protocol import Sampling, Token


@final
class Sampler:
    """Chooses tokens as :class:`Sampling` says, with transformers' own processors in transformers' order."""

    def __init__(self, sampling: Sampling, ends: frozenset[int], device: Any) -> None:
        self._sampling = sampling
        self._ends = sorted(ends)
        self._processors = processors.LogitsProcessorList()
        if sampling.repetition_penalty != 1:
            self._processors.append(processors.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature > 0:
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed % 2**63)
            if sampling.temperature != 1:
                self._processors.append(processors.TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k:
                self._processors.append(processors.TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                self._processors.append(processors.TopPLogitsWarper(sampling.top_p))
            if sampling.min_p > 0:
                self._processors.append(processors.MinPLogitsWarper(sampling.min_p))
            if sampling.typical_p < 1:
                self._processors.append(processors.TypicalLogitsWarper(sampling.typical_p))

    def choose(self, logits: Any, prompt: Sequence[int], answer: Sequence[int]) -> Token:
        """A token from ``logits``, which are one number for each token of the vocabulary."""
        sampling, scores = self._sampling, logits.float()
        raw = scores
        if sampling.presence_penalty or sampling.frequency_penalty:
            counts = Counter(answer)
            places = torch.tensor(list(counts), dtype=torch.long, device=scores.device)
            times = torch.tensor(list(counts.values()), dtype=scores.dtype, device=scores.device)
            scores = scores.index_add(0, places, -(sampling.presence_penalty + sampling.frequency_penalty * times))
        if self._ends and (len(answer) < sampling.min_tokens or sampling.ignore_eos):
            scores = scores.clone()
            scores[self._ends] = -torch.inf
        if self._processors:
            seen = torch.tensor([[*prompt, *answer]], device=scores.device)
            scores = self._processors(seen, scores[None])[0]
        if sampling.temperature > 0:
            chosen = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        else:
            chosen = int(scores.argmax())
        if sampling.logprobs is None:
            return Token(chosen)
        logprobs = raw.log_softmax(-1)
        best = logprobs.topk(sampling.logprobs)
        alternatives = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Token(chosen, float(logprobs[chosen]), alternatives)
