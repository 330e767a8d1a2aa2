"""HTTP for clients that may take their time, or take ours."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


@final
class Connection(H11Protocol):
    """A client has ``within`` seconds to send the head of a request, and as long again for a body that nobody waits for.

    An application that reads a body has a deadline of its own for it, and uvicorn has one for connections between two requests.
    """

    def __init__(self, *arguments: Any, within: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._within = within
        self._awaited: Any = None
        """What h11 calls the client that the deadline is for: one that has to send a head, or a body."""
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A request that has begun behind the one that is answered; a connection that rests is uvicorn's.
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._await(None)

    def _watch(self) -> None:
        state = self.conn.their_state
        self._await(state if state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing() else None)

    def _await(self, state: Any) -> None:
        if state is self._awaited:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited = state
        self._deadline = None if state is None else self.loop.call_later(self._within, self._late)

    def _late(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is h11.IDLE:
            if self.conn.trailing_data[0]:
                self._refuse()
            self.transport.close()
        elif self.cycle.response_complete:
            self.transport.close()

    def _refuse(self) -> None:
        status = HTTPStatus.REQUEST_TIMEOUT
        said = f"The head of the request did not arrive within {self._within:g} s.".encode("ascii")
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(said)), "Connection": "close"}
        answer = h11.Response(status_code=status, reason=status.phrase.encode("ascii"), headers=list(headers.items()))
        for event in (answer, h11.Data(data=said), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
