"""A front that knows what an API server lets its clients do, and can keep their caches behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn, cast

import aiohttp
from aiohttp import web

from kaito.devcluster.apiserver.wire.requests import Query, RequestInfo
from kaito.runtime import Forbidden, Invalid, RestConfig, Unauthorized
from support.front import Front

Action = tuple[str, str, str]
"""API group, resource or ``resource/subresource``, verb; of a path that is not a resource's ``""``, path and verb."""


class Witness(Front):
    """Refuses streaming lists, as servers do that do not know them: what clients watch they have to list as well."""

    def __init__(self, upstream: RestConfig) -> None:
        super().__init__(upstream)
        self.allowed: set[Action] = set()
        self.forbidden: set[Action] = set()
        self._refusal = asyncio.Event()
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(_open)

    async def refusal(self) -> NoReturn:
        """Raises AssertionError once a request has been forbidden."""
        await self._refusal.wait()
        raise AssertionError(f"forbidden: {sorted(self.forbidden)}")

    @contextmanager
    def held(self, *plurals: str) -> Iterator[None]:
        """Watches of these resources tell nothing until the block ends."""
        for plural in plurals:
            self._gates[plural].clear()
        try:
            yield
        finally:
            for plural in plurals:
                self._gates[plural].set()

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        info = RequestInfo.parse(method, path, Query.parse(query))
        if info.query.flag("sendInitialEvents"):
            raise Invalid("sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
        async with super()._send(method, path, query, headers, body) as answer:
            self._note(info, answer.status)
            yield answer

    def _note(self, info: RequestInfo, status: int) -> None:
        resource = f"{info.plural}/{info.subresource}" if info.subresource else info.plural
        action = (info.group, resource or info.path, info.verb)
        if status in (Unauthorized.code, Forbidden.code):
            self.forbidden.add(action)
            self._refusal.set()
        elif status < 500:
            self.allowed.add(action)

    async def _copy(self, answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        url = answer.url
        info = RequestInfo.parse(answer.method, url.raw_path, Query.parse(url.raw_query_string))
        await super()._copy(answer, cast("web.StreamResponse", _Gated(response, self._gates[info.plural])))


class _Gated:
    """Writes to a response while the gate is open."""

    def __init__(self, response: web.StreamResponse, gate: asyncio.Event) -> None:
        self._response = response
        self._gate = gate

    async def write(self, data: bytes) -> None:
        await self._gate.wait()
        await self._response.write(data)

    async def write_eof(self) -> None:
        await self._response.write_eof()


def _open() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate
