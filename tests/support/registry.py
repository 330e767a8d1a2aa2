"""A registry that does as a test says: whole, slow to let in, failing, or lying."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

USER, PASSWORD = "user", "pa:ss@word"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Registry:
    def __init__(self, auth: str = "") -> None:
        """``auth`` is "", "basic" or "bearer"."""
        self.auth = auth
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: Counter[str] = Counter()
        """How many of the next requests of a method fail with 503."""
        self.cut = 0
        """Bytes after which the next blob breaks off; 0 for none."""
        self.lie: Callable[[bytes], bytes] = lambda data: data
        """What becomes of what is sent."""
        self.tokens: set[str] = set()
        self.scopes: list[str] = []
        self.url = ""
        self._uploads: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if request.path == "/token":
            return self._token(request)
        if (refused := self._refusal(request)) is not None:
            return refused
        if self.failures[request.method]:
            self.failures[request.method] -= 1
            return web.json_response({"errors": [{"message": "try later"}]}, status=503, headers={"Retry-After": "0"})
        parts = request.path.split("/")
        what = "manifests" if "manifests" in parts else "blobs"
        if "uploads" in parts:
            return await self._upload(request, parts[-1])
        return await (self._manifest if what == "manifests" else self._blob)(request, parts[-1])

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if not self.auth or (given == basic and self.auth == "basic") or given.removeprefix("Bearer ") in self.tokens:
            return None
        asks = 'Basic realm="test"'
        if self.auth == "bearer":
            asks = f'Bearer realm="{self.url}/token",service="test",scope="repository:team/adapter:pull,push"'
        said = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return web.json_response(said, status=401, headers={"WWW-Authenticate": asks})

    def _token(self, request: web.Request) -> web.Response:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != basic:
            return web.json_response({"errors": [{"message": "no such user"}]}, status=401)
        self.scopes.append(request.query["scope"])
        self.tokens.add(token := secrets.token_hex(8))
        return web.json_response({"token": token})

    async def _manifest(self, request: web.Request, version: str) -> web.StreamResponse:
        if request.method == "PUT":
            body = await request.read()
            for name in (version, digest(body)):
                self.manifests[name] = (body, request.content_type)
            return web.Response(status=201, headers={"Docker-Content-Digest": digest(self.lie(body))})
        if version not in self.manifests:
            return web.json_response({"errors": [{"message": "manifest unknown"}]}, status=404)
        body, kind = self.manifests[version]
        return web.Response(body=self.lie(body), content_type=kind)

    async def _blob(self, request: web.Request, name: str) -> web.StreamResponse:
        if name not in self.blobs:
            return web.json_response({"errors": [{"message": "blob unknown"}]}, status=404)
        if request.method == "HEAD":
            return web.Response()
        data, status = self.lie(self.blobs[name]), 200
        if ranged := request.headers.get("Range"):
            data, status = data[int(ranged.removeprefix("bytes=").rstrip("-")) :], 206
        cut, self.cut = self.cut, 0
        response = web.StreamResponse(status=status, headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:cut] if cut else data)
        if cut and request.transport is not None:
            request.transport.close()
        return response

    async def _upload(self, request: web.Request, upload: str) -> web.Response:
        if request.method == "POST":
            upload = secrets.token_hex(8)
            self._uploads[upload] = b""
        elif upload not in self._uploads:
            return web.json_response({"errors": [{"message": "upload unknown"}]}, status=404)
        self._uploads[upload] += await request.read()
        where = {"Location": f"{request.path.rpartition('/uploads/')[0]}/uploads/{upload}?state=x"}
        if request.method != "PUT":
            return web.Response(status=202, headers=where)
        data = self._uploads.pop(upload)
        if digest(data) != request.query["digest"]:
            return web.json_response({"errors": [{"message": "digest invalid"}]}, status=400)
        self.blobs[digest(data)] = data
        return web.Response(status=201)


@asynccontextmanager
async def registry(auth: str = "") -> AsyncIterator[Registry]:
    held = Registry(auth)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", held.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address: Any = runner.addresses[0]
    held.url = f"http://127.0.0.1:{address[1]}"
    try:
        yield held
    finally:
        await runner.cleanup()
