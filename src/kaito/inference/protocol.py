"""What the routes and the engines say to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Finish = Literal["stop", "length"]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter in the directory ``path``, to be added to the model ``strength`` times."""

    name: str
    path: str
    strength: float = 1.0


Mix = tuple[Adapter, ...]
"""The adapters that are added to the model together; empty for the model itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults change nothing in the model's distribution."""

    max_tokens: int
    """New tokens at most."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """0 for no limit."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logprobs: int | None = None
    """Alternatives to tell of for each token; 0 for the chosen token alone, None for nothing."""
    json_schema: str | None = None
    """A JSON schema, as JSON, that the answer has to fit."""
    ignore_eos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters by the engine's own names."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate after ``prompt``, which is in tokens."""

    prompt: tuple[int, ...]
    sampling: Sampling
    mix: Mix = ()
    rank: int = 0
    """Which of the sequences that were asked for after this prompt; of a search by beams the best is 0."""


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    logprob: float = 0.0
    alternatives: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this place with their log probabilities, best first."""


@dataclass(frozen=True, slots=True)
class Step:
    """New tokens of a generation, without the token that ends it; ``finish`` only in the last one."""

    tokens: tuple[Token, ...]
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a loaded engine is able to do."""

    engine: str
    model: str
    """What was loaded: a path, or a name on the hub."""
    context: int
    """Tokens of a prompt and its answer together."""
    batch: int
    """Sequences that are generated at the same time."""
    chat: bool
    """The model has a chat template."""
    tools: bool = False
    """The chat template takes tools."""
    alternatives: int = 0
    """Alternatives with log probabilities that can be told of for each token."""
    json_schema: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the model's own generation configuration says, by the names of :class:`Sampling` (``max_tokens`` left out)."""


class Engine(Protocol):
    """One model in memory. All methods are called on the event loop and none blocks it."""

    @property
    def facts(self) -> Facts:
        """Known once the engine is loaded."""

    async def load(self, mixes: Sequence[Mix]) -> None:
        """Load the model and make ``mixes`` ready; raises ModelError."""

    async def aclose(self) -> None:
        """End every generation, with Unavailable for those who wait for it, and free the model."""

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt that the chat template makes; raises BadRequest where it makes none."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """``text`` in tokens; ``special`` adds what the model expects at the beginning of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, without special tokens."""

    def generate(self, generation: Generation) -> AsyncGenerator[Step]:
        """The steps of a generation. Closing the generator cancels it: its place in the batch is free at the next step.

        Raises BadRequest for parameters that the engine does not know, EngineFault where it failed.
        """
