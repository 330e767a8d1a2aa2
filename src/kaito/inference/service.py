"""Requests on their way through the engine: admitted, generated, cut, counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum
from time import monotonic
from types import TracebackType
from typing import final

from kaito.inference.adapters import Models
from kaito.inference.admission import Admission
from kaito.inference.errors import (
    BadRequest,
    ContextExceeded,
    EngineFault,
    Overloaded,
    RequestError,
    Unavailable,
    stopping,
)
from kaito.inference.metrics import Metrics
from kaito.inference.protocol import Engine, Facts, Finish, Generation, Mix, Sampling, Step, Token
from kaito.inference.text import Detokenizer, StopFinder

log = logging.getLogger(__name__)


class State(Enum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. ``tokens`` are those that have come since the piece before."""

    text: str
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None


@final
class Ticket:
    """A request that was admitted: a context in which each of its sequences can be generated once."""

    __slots__ = ("_began", "_generations", "_service", "_stops", "count", "model", "prompt_tokens")

    def __init__(
        self, service: Service, model: str, generations: Sequence[Generation], stops: Sequence[str], prompt_tokens: int
    ) -> None:
        self._service = service
        self._generations = generations
        self._stops = stops
        self._began = monotonic()
        self.model = model
        self.count = len(generations)
        self.prompt_tokens = prompt_tokens

    async def __aenter__(self) -> Ticket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._service.release(self, monotonic() - self._began)

    @property
    def logprobs(self) -> bool:
        """The request asks for log probabilities."""
        return self._generations[0].sampling.logprobs is not None

    async def whole(self, index: int) -> Piece:
        """All of sequence ``index``. Where nothing may stop it in its middle its text is made once, at the end: making it
        from a token at a time costs an engine for CPUs a seventh of its time."""
        tokens: list[Token] = []
        finish: Finish | None = None
        if self._stops:
            text = ""
            async with aclosing(self.pieces(index)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    tokens += piece.tokens
                    finish = piece.finish
            return Piece(text, tuple(tokens), finish)
        async with aclosing(self._steps(index)) as steps:
            async for step in steps:
                tokens += step.tokens
                finish = step.finish
        return Piece(self._service.engine.decode([token.id for token in tokens]), tuple(tokens), finish)

    async def pieces(self, index: int) -> AsyncGenerator[Piece]:
        """Sequence ``index`` of the request. Closing the generator cancels the sequence."""
        text, stop = Detokenizer(self._service.engine.decode), StopFinder(self._stops)
        async with aclosing(self._steps(index)) as steps:
            async for step in steps:
                given = stop.push(text.push([token.id for token in step.tokens]))
                if not stop.found and step.finish:
                    given += stop.push(text.flush())
                    given += stop.flush()
                finish: Finish | None = "stop" if stop.found else step.finish
                yield Piece(given, step.tokens, finish)
                if finish:
                    return

    async def _steps(self, index: int) -> AsyncGenerator[Step]:
        """What the engine generates in its turn, counted."""
        metrics, first = self._service.metrics, True
        generated = metrics.generation_tokens.labels(self.model)
        async with (
            self._service.admission.turn(),
            aclosing(_steps(self._service.engine, self._generations[index])) as steps,
        ):
            async for step in steps:
                if first and step.tokens:
                    first = False
                    metrics.first_token.observe(monotonic() - self._began)
                generated.inc(len(step.tokens))
                yield step


async def _steps(engine: Engine, generation: Generation) -> AsyncGenerator[Step]:
    try:
        async with aclosing(engine.generate(generation)) as steps:
            async for step in steps:
                yield step
    except RequestError:
        raise
    except Exception as error:
        log.exception("a generation failed")
        raise EngineFault("The generation failed; the server's log has the reason.") from error


@final
class Service:
    """The engine, and what stands between it and its clients."""

    def __init__(self, engine: Engine, models: Models, *, max_queue: int = 64, metrics: Metrics | None = None) -> None:
        self.engine = engine
        self.models = models
        self.metrics = metrics or Metrics()
        self.state = State.LOADING
        self.started = 0.0
        self._max_queue = max_queue
        self._admission: Admission | None = None
        self._idle = asyncio.Event()
        self._refusing = False

    @property
    def facts(self) -> Facts:
        return self.engine.facts

    @property
    def admission(self) -> Admission:
        if self._admission is None:
            raise Unavailable("The model is being loaded.", retry_after=10)
        return self._admission

    def require_loaded(self) -> None:
        """Raises Unavailable before :meth:`start` is done."""
        assert self.admission

    async def start(self) -> None:
        """Load the model and generate a token with it; raises ModelError."""
        began = monotonic()
        mixes = list(dict.fromkeys(self.models.mixes.values()))
        await self.engine.load(mixes)
        facts = self.facts
        warm = Generation(tuple(self.engine.encode("Hello", special=True)), Sampling(max_tokens=1, temperature=0.0))
        for mix in mixes:
            async with aclosing(self.engine.generate(replace(warm, mix=mix))) as steps:
                async for _ in steps:
                    pass
        self._admission = admission = Admission(facts.batch, self._max_queue)
        self.metrics.running.set_function(lambda: admission.running)
        self.metrics.waiting.set_function(lambda: admission.waiting)
        self.metrics.ready.set_function(lambda: self.state is State.READY)
        if self.state is State.LOADING:
            self.state = State.READY
        log.info("%s is ready after %.1f s: %s", self.models.name, monotonic() - began, facts)

    def admit(
        self,
        model: str | None,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stops: Sequence[str] = (),
        count: int = 1,
    ) -> Ticket:
        """Take the places of a request in the queue, ``count`` for each prompt; the ticket's context gives them back.

        Raises UnknownModel, BadRequest for a prompt that is empty or leaves no room, Overloaded and Unavailable.
        """
        if self._refusing:
            raise stopping()
        admission = self.admission
        mix: Mix = self.models.resolve(model)
        generations = [
            Generation(
                tuple(prompt), replace(self._fitting(sampling, len(prompt)), seed=_seed(sampling, index)), mix, index
            )
            for prompt in prompts
            for index in range(count)
        ]
        try:
            admission.reserve(len(generations))
        except Overloaded:
            self.metrics.rejected.inc()
            raise
        name = model if model in self.models.listed else self.models.name
        tokens = sum(map(len, prompts))
        self.metrics.prompt_tokens.labels(name).inc(tokens)
        return Ticket(self, name, generations, stops, tokens)

    def _fitting(self, sampling: Sampling, prompt: int) -> Sampling:
        if not prompt:
            raise BadRequest("The prompt is empty.", param="prompt")
        room = self.facts.context - prompt
        if room < 1:
            raise ContextExceeded(
                f"The prompt has {prompt} tokens and the model takes {self.facts.context}, answer included.",
                param="prompt",
            )
        return replace(sampling, max_tokens=min(sampling.max_tokens, room), min_tokens=min(sampling.min_tokens, room))

    def release(self, ticket: Ticket, seconds: float) -> None:
        self.metrics.duration.observe(seconds)
        self.admission.release(ticket.count)
        if self.admission.idle:
            self._idle.set()

    async def drain(self, delay: float, timeout: float) -> None:
        """Say that the server is going away, refuse requests after ``delay``, and wait for those that are running.

        ``timeout`` seconds from now it returns in any case.
        """
        self.state = State.DRAINING
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(delay)
                self._refusing = True
                while self._admission is not None and not self._admission.idle:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            self._refusing = True
            log.warning("stopping with %d requests unfinished after %.0f s", self.admission.running, timeout)


def _seed(sampling: Sampling, index: int) -> int | None:
    """Each sequence of a request has a seed of its own, so that they differ and come again."""
    return None if sampling.seed is None else sampling.seed + index
