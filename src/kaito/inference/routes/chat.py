"""``POST /chat``: a prompt or messages in, ``{"Result": text}`` out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from kaito.inference.errors import BadRequest, RequestError
from kaito.inference.protocol import Sampling
from kaito.inference.routes.reply import WholeReply, detail_error, together

if TYPE_CHECKING:
    from starlette.responses import Response

    from kaito.inference.metrics import Metrics
    from kaito.inference.service import Service, Ticket

Pipeline = Literal["", "text-generation", "conversational"]
_SEQUENCES = 16
"""Sequences of a request at most."""


class ChatMessage(BaseModel):
    role: str
    content: str


class GenerateKwargs(BaseModel):
    """Parameters of a generation, by the names of transformers; further ones go to the engine as they are."""

    model_config = ConfigDict(extra="allow")

    max_length: int = 200
    """Tokens of the prompt and the answer together."""
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = True
    early_stopping: bool = False
    num_beams: int = 1
    num_return_sequences: int = Field(default=1, ge=1, le=_SEQUENCES)
    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=10, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    typical_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class ChatRequest(BaseModel):
    prompt: str | None = None
    return_full_text: bool = True
    clean_up_tokenization_spaces: bool = False
    prefix: str | None = None
    handle_long_generation: str | None = None
    messages: list[ChatMessage] | None = None
    generate_kwargs: GenerateKwargs | None = Field(default_factory=GenerateKwargs)
    model: str | None = None
    """One of ``/v1/models``; the model with all its adapters if it is left out."""


def router(service: Service, pipeline: Pipeline) -> APIRouter:
    routes = APIRouter()

    @routes.post("/chat")
    async def chat(request: ChatRequest) -> Any:
        service.require_loaded()
        conversation = pipeline == "conversational" or (not pipeline and request.messages is not None)
        if conversation:
            if not request.messages:
                raise BadRequest("Conversational parameter messages required")
            text = service.engine.render([message.model_dump() for message in request.messages])
            prompt = service.engine.encode(text, special=False)
        else:
            if not request.prompt:
                raise BadRequest("Text generation parameter prompt required")
            text = (request.prefix or "") + request.prompt
            prompt = service.engine.encode(text, special=True)
        sampling, count = _sampling(request.generate_kwargs, service.facts.defaults, len(prompt))
        if request.handle_long_generation == "hole":
            prompt = prompt[-max(1, service.facts.context - min(sampling.max_tokens, service.facts.context - 1)) :]
        elif request.handle_long_generation is not None:
            raise BadRequest("handle_long_generation: must be null or 'hole'")
        ticket = service.admit(request.model, [prompt], sampling, count=count)
        before = request.prompt if not conversation and request.return_full_text else ""
        return ChatReply(ticket, service.metrics, request, before or "", conversation=conversation)

    return routes


class ChatReply(WholeReply):
    def __init__(
        self, ticket: Ticket, metrics: Metrics, request: ChatRequest, before: str, *, conversation: bool
    ) -> None:
        super().__init__(ticket, metrics)
        self._before = before
        self._clean = request.clean_up_tokenization_spaces
        self._conversation = conversation

    async def payload(self) -> dict[str, str]:
        texts = await together([self._text(index) for index in range(self.ticket.count)])
        if self._conversation:
            return {"Result": str({"role": "assistant", "content": texts[-1]})}
        return {"Result": "".join(self._before + text for text in texts)}

    async def _text(self, index: int) -> str:
        text = (await self.ticket.whole(index)).text
        return cleaned(text) if self._clean else text

    def failure(self, error: RequestError) -> Response:
        return detail_error(error)


def cleaned(text: str) -> str:
    """``text`` without the spaces that tokenizers leave before punctuation and in contractions."""
    for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {mark}", mark)
    return text.replace(" ' ", "'")


def _sampling(given: GenerateKwargs | None, defaults: Mapping[str, Any], prompt: int) -> tuple[Sampling, int]:
    """The sampling of ``generate_kwargs`` after a prompt of so many tokens, and how many sequences.

    What is left out has the default of this route rather than the model's; an explicit null leaves all to the model, which
    takes the most likely token unless its configuration says otherwise.
    """
    if given is None:
        return Sampling(max_tokens=sys.maxsize, **{"temperature": 0.0, **defaults}), 1
    if given.max_new_tokens is None and given.max_length <= prompt:
        raise BadRequest(
            f"generate_kwargs.max_length is {given.max_length}, and the prompt alone has {prompt} tokens: "
            "raise it, or give max_new_tokens"
        )
    new = given.max_length - prompt if given.max_new_tokens is None else given.max_new_tokens
    if new < 1:
        raise BadRequest(f"generate_kwargs.max_new_tokens must be at least 1, is {new}")
    own = dict(given.model_extra or {})
    if given.num_beams != 1:
        own |= {"num_beams": given.num_beams, "early_stopping": given.early_stopping}
    if given.eos_token_id is not None:
        own["eos_token_id"] = given.eos_token_id
    least = max(0, given.min_length - prompt) if given.min_new_tokens is None else given.min_new_tokens
    sampling = Sampling(
        max_tokens=new,
        min_tokens=min(least, new),
        temperature=given.temperature if given.do_sample else 0.0,
        top_k=given.top_k,
        top_p=given.top_p,
        typical_p=given.typical_p,
        repetition_penalty=given.repetition_penalty,
        seed=own.pop("seed", None),
        extra=own,
    )
    return sampling, given.num_return_sequences
