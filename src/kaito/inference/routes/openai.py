"""The routes of the OpenAI API."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from kaito.inference.errors import BadRequest
from kaito.inference.routes.completions import Answer, ChatForm, CompletionStream, TextForm, WholeCompletion
from kaito.inference.routes.schema import ChatCompletionRequest, Common, CompletionRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from kaito.inference.service import Service

_COMPLETION_TOKENS = 16
"""What the API gives a completion that names no maximum."""


def router(service: Service, *, stand_in: str = "") -> APIRouter:
    """``stand_in`` is told of with each model: what answers in place of the one that is named."""
    routes = APIRouter(prefix="/v1")
    began = int(time.time())

    def entry(name: str) -> dict[str, Any]:
        models = service.models
        mix = models.named(name)
        described: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": began,
            "owned_by": "kaito",
            "root": service.facts.model,
            "parent": None if name == models.name else models.name,
            "max_model_len": service.facts.context,
            "adapters": {adapter.name: adapter.strength for adapter in mix},
        }
        return described | ({"stand_in": stand_in} if stand_in else {})

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        service.require_loaded()
        return {"object": "list", "data": [entry(name) for name in service.models.listed]}

    @routes.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.require_loaded()
        return entry(name)

    @routes.post("/chat/completions")
    async def chat_completions(request: ChatCompletionRequest) -> Any:
        service.require_loaded()
        if request.tools and not service.facts.tools:
            raise BadRequest("The model's chat template takes no tools.", param="tools")
        tools = None if request.tool_choice == "none" else request.tools
        prompt = service.engine.encode(service.engine.render(request.messages, tools), special=False)
        maximum = request.max_completion_tokens or request.max_tokens or sys.maxsize
        form = ChatForm(request.model or service.models.name, tools=bool(tools))
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return _answer(request, form, [prompt], maximum, logprobs, echo=[])

    @routes.post("/completions")
    async def completions(request: CompletionRequest) -> Any:
        service.require_loaded()
        prompts = _prompts(request, service)
        form = TextForm(request.model or service.models.name)
        maximum = request.max_tokens or _COMPLETION_TOKENS
        echo = [service.engine.decode(prompt) for prompt in prompts] if request.echo else []
        return _answer(request, form, prompts, maximum, request.logprobs, echo=echo)

    def _answer(
        request: Common,
        form: ChatForm | TextForm,
        prompts: Sequence[Sequence[int]],
        maximum: int,
        logprobs: int | None,
        *,
        echo: list[str],
    ) -> Response:
        service.models.resolve(request.model)
        sampling = request.sampling(service.facts, max_tokens=maximum, logprobs=logprobs)
        ticket = service.admit(request.model, prompts, sampling, stops=request.stop, count=request.n)
        answer = Answer(ticket, form, service.engine.decode, echo=[text for text in echo for _ in range(request.n)])
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return CompletionStream(answer, service.metrics, usage=usage)
        return WholeCompletion(answer, service.metrics)

    return routes


def _prompts(request: CompletionRequest, service: Service) -> list[list[int]]:
    given = request.prompt
    if isinstance(given, str):
        given = [given]
    if not given:
        raise BadRequest("The prompt is empty.", param="prompt")
    if isinstance(given[0], int):
        given = [given]
    prompts = [service.engine.encode(item, special=True) if isinstance(item, str) else item for item in given]
    return prompts
