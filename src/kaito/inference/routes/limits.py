"""What a client may send: so much, in so long."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, final

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from kaito.inference.metrics import Metrics


@final
class Limits:
    """Refuses bodies that are too large (413) or too slow (408), and counts requests by route and status.

    A client that does not read its answer for as long as a body may take counts as gone: sending raises TimeoutError.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body: int, body_timeout: float) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body = max_body
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            async with asyncio.timeout(self._body_timeout):
                await send(message)

        try:
            await self._app(scope, self._bounded(receive), sent)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(route, status or "none").inc()

    def _bounded(self, receive: Receive) -> Receive:
        size, complete, deadline = 0, False, monotonic() + self._body_timeout

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    message = await receive()
            except TimeoutError:
                raise _refused(408, f"The request did not arrive within {self._body_timeout:g} s.") from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if size > self._max_body:
                    raise _refused(413, f"The request has more than {self._max_body} bytes.")
            return message

        return bounded


def _refused(status: int, message: str) -> HTTPException:
    """The rest of the body is not read: the connection can serve nothing after it."""
    return HTTPException(status, message, headers={"Connection": "close"})
