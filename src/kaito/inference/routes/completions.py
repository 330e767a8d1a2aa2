"""Completions in the forms of the OpenAI API: whole, and as a stream of chunks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from kaito.inference import toolcalls
from kaito.inference.routes.reply import EventStream, WholeReply, openai_error, together

if TYPE_CHECKING:
    from starlette.responses import Response

    from kaito.inference.errors import RequestError
    from kaito.inference.metrics import Metrics
    from kaito.inference.protocol import Token
    from kaito.inference.service import Piece, Ticket

Decode = Callable[[Sequence[int]], str]


@dataclass(slots=True)
class Choice:
    """One sequence of an answer, as far as it has come."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish


@final
class ChatForm:
    """``chat.completion`` objects. With tools the calls are taken out of the text when it is complete."""

    def __init__(self, model: str, *, tools: bool) -> None:
        self.model = model
        self.whole, self.part, self.prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"
        self.buffered = tools

    def first(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, choice: Choice, decode: Decode) -> dict[str, Any]:
        message, finish = self._message(choice)
        return {
            "index": index,
            "message": {"role": "assistant", **message},
            "logprobs": self.logprobs(choice.tokens, decode),
            "finish_reason": finish,
        }

    def chunk(self, index: int, choice: Choice, decode: Decode) -> dict[str, Any]:
        delta, finish = self._message(choice)
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
        if not delta["content"]:
            del delta["content"]
        return {
            "index": index,
            "delta": delta,
            "logprobs": self.logprobs(choice.tokens, decode),
            "finish_reason": finish,
        }

    def _message(self, choice: Choice) -> tuple[dict[str, Any], str | None]:
        if not self.buffered:
            return {"content": choice.text}, choice.finish
        text, calls = toolcalls.split(choice.text)
        if not calls:
            return {"content": text}, choice.finish
        return {"content": text or None, "tool_calls": calls}, "tool_calls"

    def logprobs(self, tokens: Sequence[Token], decode: Decode) -> dict[str, Any] | None:
        def told(token: int, logprob: float) -> dict[str, Any]:
            text = decode([token])
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        content = [
            {**told(token.id, token.logprob), "top_logprobs": [told(*other) for other in token.alternatives]}
            for token in tokens
        ]
        return {"content": content} if content else None


@final
class TextForm:
    """``text_completion`` objects."""

    buffered = False

    def __init__(self, model: str) -> None:
        self.model = model
        self.whole, self.part, self.prefix = "text_completion", "text_completion", "cmpl"

    def first(self, index: int) -> dict[str, Any] | None:
        return None

    def choice(self, index: int, choice: Choice, decode: Decode) -> dict[str, Any]:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self.logprobs(choice.tokens, decode),
            "finish_reason": choice.finish,
        }

    chunk = choice

    def logprobs(self, tokens: Sequence[Token], decode: Decode) -> dict[str, Any] | None:
        texts = [decode([token.id]) for token in tokens]
        if not texts:
            return None
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{decode([other]): logprob for other, logprob in token.alternatives} for token in tokens],
            "text_offset": [sum(map(len, texts[:place])) for place in range(len(texts))],
        }


class Answer:
    """The sequences of an admitted request, and the form in which they are told."""

    def __init__(self, ticket: Ticket, form: ChatForm | TextForm, decode: Decode, *, echo: Sequence[str] = ()) -> None:
        self.ticket = ticket
        self.form = form
        self.decode = decode
        self.echo = echo or [""] * ticket.count
        self.logprobs = ticket.logprobs
        self._id = f"{form.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def document(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.form.model,
            "choices": choices,
        }

    def usage(self, completion: int) -> dict[str, int]:
        prompt = self.ticket.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def told(self, choice: Choice) -> Choice:
        """``choice`` without the tokens if nobody asked for log probabilities."""
        return choice if self.logprobs else Choice(choice.text, [], choice.finish)


class WholeCompletion(WholeReply):
    def __init__(self, answer: Answer, metrics: Metrics) -> None:
        super().__init__(answer.ticket, metrics)
        self._answer = answer

    async def payload(self) -> dict[str, Any]:
        answer = self._answer
        choices = await together([self._choice(index) for index in range(self.ticket.count)])
        told = [answer.form.choice(index, answer.told(choice), answer.decode) for index, choice in enumerate(choices)]
        document = answer.document(answer.form.whole, told)
        return document | {"usage": answer.usage(sum(len(choice.tokens) for choice in choices))}

    async def _choice(self, index: int) -> Choice:
        choice = Choice(self._answer.echo[index])
        choice.add(await self.ticket.whole(index))
        return choice

    def failure(self, error: RequestError) -> Response:
        return openai_error(error)


class CompletionStream(EventStream):
    def __init__(self, answer: Answer, metrics: Metrics, *, usage: bool) -> None:
        super().__init__(answer.ticket, metrics)
        self._answer = answer
        self._usage = usage

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        answer, form = self._answer, self._answer.form
        tokens = 0
        started: set[int] = set()
        buffers = [Choice(text) for text in answer.echo]
        async with aclosing(_merged([self.ticket.pieces(index) for index in range(self.ticket.count)])) as pieces:
            async for index, piece in pieces:
                tokens += len(piece.tokens)
                if index not in started:
                    started.add(index)
                    if first := form.first(index):
                        yield self._chunk([first])
                choice = buffers[index]
                choice.add(piece)
                if piece.finish or (choice.text and not form.buffered):
                    yield self._chunk([form.chunk(index, answer.told(choice), answer.decode)])
                    buffers[index] = Choice()
        if self._usage:
            yield self._chunk([]) | {"usage": answer.usage(tokens)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        document = self._answer.document(self._answer.form.part, choices)
        return document | ({"usage": None} if self._usage else {})


async def _merged(streams: Sequence[AsyncGenerator[Piece]]) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of several sequences as they come, with the index of each."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece] | None] = asyncio.Queue(len(streams))

    async def pump(index: int, stream: AsyncGenerator[Piece]) -> None:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                await queue.put((index, piece))

    async def all_of_them() -> None:
        try:
            await together([pump(index, stream) for index, stream in enumerate(streams)])
        finally:
            await queue.put(None)

    pumps = asyncio.create_task(all_of_them(), name="sequences")
    try:
        while (item := await queue.get()) is not None:
            yield item
        await pumps
    finally:
        pumps.cancel()
        await asyncio.wait([pumps])
