"""Requests of the OpenAI API. A field that would change the answer and is not known is refused, not ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kaito.inference.errors import BadRequest
from kaito.inference.protocol import Facts, Sampling

MAX_SEQUENCES = 16
_STOPS = 4


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class JsonSchema(BaseModel):
    name: str = "response"
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Common(BaseModel):
    """What both kinds of completion take."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MAX_SEQUENCES)
    stop: list[str] = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    response_format: ResponseFormat | None = None
    logit_bias: dict[str, float] | None = None
    # Beyond the OpenAI API, by the names that vLLM gave them.
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False
    # What says something about the request, not about the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [] if value is None else [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if len(value) > _STOPS or not all(value):
            raise ValueError(f"takes up to {_STOPS} texts, none of them empty")
        return value

    @field_validator("n", "stream", "presence_penalty", "frequency_penalty", mode="before")
    @classmethod
    def _null(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    def sampling(self, facts: Facts, *, max_tokens: int, logprobs: int | None) -> Sampling:
        """Raises BadRequest for what the engine is not able to do."""
        if self.logit_bias:
            raise BadRequest("logit_bias is not supported.", param="logit_bias")
        if logprobs is not None and logprobs > facts.alternatives:
            raise BadRequest(
                f"The engine tells of {facts.alternatives} alternatives for each token at most, not {logprobs}.",
                param="top_logprobs",
            )
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "repetition_penalty": self.repetition_penalty,
        }
        chosen: dict[str, Any] = {
            **facts.defaults,
            **{name: value for name, value in given.items() if value is not None},
        }
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=min(self.min_tokens, max_tokens),
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            logprobs=logprobs,
            json_schema=self._schema(facts),
            ignore_eos=self.ignore_eos,
            **chosen,
        )

    def _schema(self, facts: Facts) -> str | None:
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        if not facts.json_schema:
            raise BadRequest(f"The engine {facts.engine} has no {wanted.type} output.", param="response_format")
        if wanted.type == "json_object":
            return '{"type":"object"}'
        if wanted.json_schema is None:
            raise BadRequest("response_format.json_schema is missing.", param="response_format.json_schema")
        return json.dumps(wanted.json_schema.schema_)


class ChatCompletionRequest(Common):
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None

    @field_validator("messages")
    @classmethod
    def _plain(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_message(index, message) for index, message in enumerate(messages)]

    @field_validator("logprobs", mode="before")
    @classmethod
    def _no_logprobs(cls, value: Any) -> Any:
        return False if value is None else value


class CompletionRequest(Common):
    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool = False
    suffix: None = None
    best_of: Literal[1] | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)

    @field_validator("echo", mode="before")
    @classmethod
    def _no_echo(cls, value: Any) -> Any:
        return False if value is None else value


def _message(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as chat templates take it: its content is one text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise ValueError(f"message {index} needs a role")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"message {index}: the model takes parts of the type text only")
        content = "".join(part for part in parts if part is not None)
    if content is None and (message.get("tool_calls") or role == "assistant"):
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"message {index} needs a content: a text, or a list of parts")  # noqa: TRY004  # pydantic takes ValueError
    return {**message, "role": "system" if role == "developer" else role, "content": content}
