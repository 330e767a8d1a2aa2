"""A small HTTP client for the local API server, as tests speak to it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from kaito.devcluster.apiserver import ApiServer

DEADLINE = 10.0
"""Seconds after which something that should have happened counts as not happening."""


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    body: Any = None

    @property
    def rv(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def warnings(self) -> list[str]:
        return list(self.headers.getall("Warning", []))


@dataclass(slots=True)
class Watch:
    """An open watch whose events are awaited one by one."""

    response: aiohttp.ClientResponse

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            line = await self.response.content.readline()
        assert line, "the watch ended"
        event: dict[str, Any] = json.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Type and object name of the next ``count`` events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def ended(self) -> list[dict[str, Any]]:
        """The rest of the stream, up to its end."""
        async with asyncio.timeout(DEADLINE):
            rest = await self.response.content.read()
        return [json.loads(line) for line in rest.splitlines()]

    def close(self) -> None:
        self.response.close()


@dataclass(slots=True)
class Kube:
    """Raw requests to an API server, as one user."""

    server: ApiServer
    session: aiohttp.ClientSession
    token: str
    watches: list[Watch] = field(default_factory=list)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        **params: str,
    ) -> Answer:
        sent = {"Content-Type": content_type, **(headers or {})}
        if self.token:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        data = None if raw is None else io.BytesIO(raw)
        async with self.session.request(
            method, self.server.url + path, data=data, headers=sent, params=params
        ) as response:
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(response.status, response.headers, text, json.loads(text) if is_json and text else None)

    async def get(self, path: str, **params: str) -> Answer:
        return await self.call("GET", path, **params)

    async def post(self, path: str, body: Any, **params: str) -> Answer:
        return await self.call("POST", path, body, **params)

    async def put(self, path: str, body: Any, **params: str) -> Answer:
        return await self.call("PUT", path, body, **params)

    async def delete(self, path: str, body: Any = None, **params: str) -> Answer:
        return await self.call("DELETE", path, body, **params)

    async def merge(self, path: str, body: Any, **params: str) -> Answer:
        return await self.call("PATCH", path, body, content_type="application/merge-patch+json", **params)

    async def strategic(self, path: str, body: Any, **params: str) -> Answer:
        return await self.call("PATCH", path, body, content_type="application/strategic-merge-patch+json", **params)

    async def json_patch(self, path: str, body: Any, **params: str) -> Answer:
        return await self.call("PATCH", path, body, content_type="application/json-patch+json", **params)

    async def watch(self, path: str, *, headers: Mapping[str, str] | None = None, **params: str) -> Watch:
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        response = await self.session.get(self.server.url + path, params={"watch": "true", **params}, headers=sent)
        assert response.status == 200, await response.text()
        watch = Watch(response)
        self.watches.append(watch)
        return watch

    def acting(self, token: str) -> Kube:
        return Kube(self.server, self.session, token)
