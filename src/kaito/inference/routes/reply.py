"""Replies that take a while: they end when their client goes away."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse, Response

from kaito.inference.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from starlette.types import Receive, Scope, Send

    from kaito.inference.metrics import Metrics
    from kaito.inference.service import Ticket

T = TypeVar("T")
log = logging.getLogger(__name__)


def openai_error(error: RequestError) -> JSONResponse:
    """An error in the form of the OpenAI API."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status, headers=retry_after(error))


def detail_error(error: RequestError) -> JSONResponse:
    """An error in the form of ``/chat``."""
    return JSONResponse({"detail": error.message}, error.status, headers=retry_after(error))


def retry_after(error: RequestError) -> dict[str, str] | None:
    return {"Retry-After": str(error.retry_after)} if error.retry_after else None


class Reply(Response):
    """The answer to an admitted request.

    It is produced while the client listens. A client that goes away, or reads no more, ends the generation; the request's
    places in the queue are given back in any case.
    """

    def __init__(self, ticket: Ticket, metrics: Metrics) -> None:
        super().__init__()
        self.ticket = ticket
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.ticket:
            work = asyncio.create_task(self.answer(scope, receive, send), name="answer")
            gone = asyncio.create_task(_gone(receive), name="client")
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if not work.done() or isinstance(work.exception(), TimeoutError):
                    self._metrics.cancelled.inc()
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.wait((work, gone))
            if not work.cancelled() and (error := work.exception()) and not isinstance(error, TimeoutError):
                raise error

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send. It is cancelled when the client goes away."""


class WholeReply(Reply):
    """An answer that is sent when it is complete."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response: Response = JSONResponse(await self.payload())
        except RequestError as error:
            response = self.failure(error)
        await response(scope, receive, send)

    @abstractmethod
    async def payload(self) -> Any: ...

    @abstractmethod
    def failure(self, error: RequestError) -> Response: ...


class EventStream(Reply):
    """An answer as server-sent events; the first is awaited before the status is sent, so that errors have their own."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = self.events()
        try:
            try:
                first = await anext(events)
            except RequestError as error:
                await openai_error(error)(scope, receive, send)
                return
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                (b"x-accel-buffering", b"no"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send_event(send, first)
            try:
                async for event in events:
                    await _send_event(send, event)
            except RequestError as error:
                log.warning("an answer ended early: %s", error.message)
                await send(_part(b"data: " + bytes(openai_error(error).body) + b"\n\n"))
            await send(_part(b"data: [DONE]\n\n"))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await events.aclose()

    @abstractmethod
    def events(self) -> AsyncGenerator[dict[str, Any]]: ...


async def _send_event(send: Send, event: dict[str, Any]) -> None:
    await send(_part(f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()))


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that end together: the first error ends the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
