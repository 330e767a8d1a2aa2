"""An API server that says exactly what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from kaito.runtime import RestConfig

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Scripted:
    """Every request is handed to ``respond`` and counted."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self.requests: list[web.BaseRequest] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self._respond(request)

    @property
    def config(self) -> RestConfig:
        return RestConfig(server=self.url)

    def count(self, *, watch: bool) -> int:
        return sum(("watch" in request.query) == watch for request in self.requests)


@asynccontextmanager
async def scripted(respond: Respond) -> AsyncIterator[Scripted]:
    script = Scripted(respond)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield script
    finally:
        await runner.cleanup()


def pod(name: str, version: int, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def listing(*items: dict[str, Any], version: int = 1, **metadata: Any) -> web.Response:
    return web.json_response(
        {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(version), **metadata},
            "items": list(items),
        }
    )


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def stream(request: web.Request, *lines: bytes, hold: bool = True) -> web.StreamResponse:
    """Send ``lines`` as a watch; then stay open until the client leaves, or end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for line in lines:
        await response.write(line)
    if hold:
        await asyncio.Event().wait()
    return response


def status(code: int, reason: str, message: str = "", **headers: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message or reason,
    }
    return web.json_response(body, status=code, headers=headers)
