"""An engine that says what a test tells it to: one token for each character."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from kaito.inference.adapters import Models
from kaito.inference.errors import BadRequest, ModelError, stopping
from kaito.inference.protocol import Adapter, Facts, Generation, Message, Mix, Step, Token
from kaito.inference.server import Server, listen
from kaito.inference.service import Service
from kaito.inference.settings import Settings
from support.waiting import eventually


class ScriptedEngine:
    """Answers ``reply``, a text or what makes one of a generation, as fast as :attr:`gate` lets it."""

    def __init__(self, reply: str | Callable[[Generation], str] = "Hello", **facts: Any) -> None:
        self._reply = reply
        self.facts = Facts(
            **{"engine": "scripted", "model": "script", "context": 512, "batch": 4, "chat": True, "alternatives": 2}
            | facts
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.loaded = asyncio.Event()
        self.loaded.set()
        self.broken: Exception | None = None
        self.seen: list[Generation] = []
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self.closed = False

    async def load(self, mixes: Sequence[Mix]) -> None:
        await self.loaded.wait()
        if isinstance(self.broken, ModelError):
            raise self.broken

    async def aclose(self) -> None:
        self.closed = True
        self.gate.set()

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        if not self.facts.chat:
            raise BadRequest("The model has no chat template.", param="messages")
        offered = f"[{tools[0]['function']['name']}]" if tools else ""
        return offered + "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    async def generate(self, generation: Generation) -> AsyncGenerator[Step]:
        if generation.prompt == tuple(map(ord, "Hello")) and generation.sampling.max_tokens == 1:
            yield Step((), "length")
            return
        self.seen.append(generation)
        if self.broken:
            raise self.broken
        text = self._reply if isinstance(self._reply, str) else self._reply(generation)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for place, character in enumerate(text):
                await self.gate.wait()
                await asyncio.sleep(0)
                if self.closed:
                    raise stopping()
                if place == generation.sampling.max_tokens:
                    yield Step((), "length")
                    return
                yield Step((Token(ord(character), -0.5, ((ord(character), -0.5), (ord("?"), -2.0))),))
            yield Step((), "stop")
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@dataclass(slots=True)
class Face:
    """A running server and a client for it."""

    url: str
    http: aiohttp.ClientSession
    engine: ScriptedEngine
    service: Service
    server: Server
    task: asyncio.Task[None]

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.get(self.url + path, **options) as response:
            return response.status, await _content(response)

    async def healthy(self) -> bool:
        return (await self.get("/health"))[0] == 200

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await _content(response)


async def _content(response: aiohttp.ClientResponse) -> Any:
    return await response.json() if response.content_type == "application/json" else await response.text()


@asynccontextmanager
async def serving(
    engine: ScriptedEngine | None = None, *, adapters: Sequence[Adapter] = (), ready: bool = True, **settings: Any
) -> AsyncIterator[Face]:
    """A server over ``engine`` on a port of its own."""
    engine = engine or ScriptedEngine()
    chosen = Settings.model_validate(
        {"served_model_name": "m", "host": "127.0.0.1", "port": 0, "drain_delay": 0, **settings}
    )
    service = Service(engine, Models(chosen.name, adapters), max_queue=chosen.max_queue)
    listener = listen(chosen)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(service, chosen, listener)
    task = asyncio.create_task(server.run())
    try:
        async with aiohttp.ClientSession() as http:
            face = Face(url, http, engine, service, server, task)
            if ready:
                await eventually(face.healthy)
            yield face
    finally:
        server.stop()
        engine.gate.set()
        engine.loaded.set()
        await asyncio.wait([task])
    if not isinstance(engine.broken, ModelError) and not task.cancelled():
        task.result()
