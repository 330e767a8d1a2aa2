"""A sequence that transformers' own ``generate`` makes, for parameters that only it knows: beams, look-up and more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, final

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from kaito.inference.errors import BadRequest, RequestError
from kaito.inference.protocol import Generation, Step, Token

_KNOWN = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_")) - {
    "transformers_version",
    "num_return_sequences",
    "return_dict_in_generate",
}


def configured(model: Any, request: Generation, ends: frozenset[int], extra: Mapping[str, Any]) -> Any:
    """The configuration of ``request`` with the parameters ``extra``; raises BadRequest for unknown and wrong ones."""
    for name in extra:
        if name not in _KNOWN:
            raise BadRequest(
                f"The engine transformers has no parameter {name}; its GenerationConfig has {', '.join(sorted(_KNOWN))}.",
                param=name,
            )
    sampling = request.sampling
    given: dict[str, Any] = {
        "max_length": None,
        "max_new_tokens": sampling.max_tokens,
        "min_new_tokens": sampling.min_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "eos_token_id": sorted(ends),
        "do_sample": sampling.temperature > 0,
    }
    if model.generation_config.pad_token_id is None:
        given["pad_token_id"] = min(ends, default=0)
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    given |= {name: getattr(sampling, name) if given["do_sample"] else None for name in names}
    try:
        config = GenerationConfig.from_dict({**model.generation_config.to_dict(), **given, **extra})
        if (config.num_beams or 1) > 1 and not config.do_sample:
            config.num_return_sequences = request.rank + 1
        config.validate()
    except (TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"The engine does not take these parameters: {error}") from error
    return config


@final
class Alone(StoppingCriteria):  # type: ignore[misc,unused-ignore]  # untyped where transformers is not installed
    """``generate`` in a thread that stands still between two steps.

    It asks this object after each token whether it shall stop, and waits for the answer: so it shares the model with a batch,
    and a sequence that nobody waits for ends at its next token.
    """

    def __init__(self, model: Any, request: Generation, config: Any, tokenizer: Any) -> None:
        self._model = model
        self._request = request
        self._config = config
        self._tokenizer = tokenizer
        self._given = 0
        self._tokens: list[int] = []
        self._error: Exception | None = None
        self._finished = self._cancelled = False
        self._go, self._stood = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)

    def step(self) -> Step | RequestError:
        """One more token; of several beams nothing is told before the end."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._stood.acquire()
        if self._error is not None:
            return BadRequest(f"The engine does not take these parameters: {self._error}")
        ends = frozenset(self._config.eos_token_id)
        tokens = [Token(token) for token in self._tokens[self._given :] if token not in ends]
        self._given = len(self._tokens)
        if not self._finished:
            return Step(tuple(tokens) if self._config.num_beams in (None, 1) else ())
        full = self._given >= self._config.max_new_tokens and self._tokens[-1] not in ends
        return Step(tuple(tokens), "length" if full else "stop")

    def cancel(self) -> None:
        """Nobody waits any more: the model is free when this returns."""
        self._cancelled = True
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        if self._config.num_beams in (None, 1):
            self._tokens = input_ids[0, len(self._request.prompt) :].tolist()
        self._stood.release()
        self._go.acquire()
        return torch.full((input_ids.shape[0],), self._cancelled, dtype=torch.bool, device=input_ids.device)

    def _run(self) -> None:
        self._go.acquire()
        prompt = torch.tensor([self._request.prompt], device=self._model.device)
        try:
            if self._request.sampling.seed is not None:
                torch.manual_seed(self._request.sampling.seed % 2**63)
            with torch.inference_mode():
                said = self._model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=self._config,
                    stopping_criteria=StoppingCriteriaList([self]),
                    tokenizer=self._tokenizer,
                )
            tokens = said[-1, prompt.shape[1] :].tolist()
            # What follows the end fills up to the longest of several beams.
            end = next((place for place, token in enumerate(tokens) if token in self._config.eos_token_id), len(tokens))
            self._tokens = tokens[: end + 1]
        except Exception as error:  # whatever transformers thinks of the parameters: it is the request's
            self._error = error
        self._finished = True
        self._stood.release()
