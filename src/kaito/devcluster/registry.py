"""A registry of images on loopback, for adapters that one Workspace makes and another one loads.

It speaks the part of the OCI distribution specification that pushing and pulling takes. What it is given lies in a folder;
it keeps no tags but in memory, lists nothing and deletes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

_NAME = r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_CHUNK = 1 << 20


class _Registry:
    def __init__(self, folder: Path, login: tuple[str, str] | None) -> None:
        self._folder = folder
        self._expected = base64.b64encode(":".join(login).encode()).decode() if login else ""
        self._manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self._uploads: dict[str, Path] = {}

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 22, middlewares=[self._guard])
        base = rf"/v2/{{name:{_NAME}}}"
        app.router.add_get("/v2/", self._hello)
        app.router.add_get(f"{base}/blobs/{{digest}}", self._blob)
        app.router.add_post(f"{base}/blobs/uploads/", self._begin)
        app.router.add_patch(f"{base}/blobs/uploads/{{upload}}", self._append)
        app.router.add_put(f"{base}/blobs/uploads/{{upload}}", self._complete)
        app.router.add_get(f"{base}/manifests/{{reference}}", self._manifest)
        app.router.add_put(f"{base}/manifests/{{reference}}", self._store)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Basic ")
        if self._expected and not hmac.compare_digest(given.encode(), self._expected.encode()):
            refused = _error(401, "UNAUTHORIZED", "authentication required")
            refused.headers["WWW-Authenticate"] = 'Basic realm="registry"'
            return refused
        return await handler(request)

    async def _hello(self, request: web.Request) -> web.Response:
        return web.json_response({})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        path = self._folder / request.match_info["digest"]
        if not _DIGEST.match(path.name) or not path.exists():
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return web.FileResponse(path, headers={"Docker-Content-Digest": path.name})

    async def _begin(self, request: web.Request) -> web.Response:
        upload = secrets.token_hex(16)
        self._uploads[upload] = self._folder / f"upload-{upload}"
        self._uploads[upload].touch()
        return self._accepted(request, upload)

    def _accepted(self, request: web.Request, upload: str) -> web.Response:
        size = self._uploads[upload].stat().st_size
        headers = {
            "Location": f"/v2/{request.match_info['name']}/blobs/uploads/{upload}",
            "Docker-Upload-UUID": upload,
            "Range": f"0-{max(0, size - 1)}",
        }
        return web.Response(status=202, headers=headers)

    async def _receive(self, request: web.Request) -> Path | None:
        """The upload with what the request brings; None for one that is unknown."""
        path = self._uploads.get(request.match_info["upload"])
        if path is not None:
            with path.open("ab") as file:
                async for chunk in request.content.iter_chunked(_CHUNK):
                    file.write(chunk)
        return path

    async def _append(self, request: web.Request) -> web.Response:
        if await self._receive(request) is None:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return self._accepted(request, request.match_info["upload"])

    async def _complete(self, request: web.Request) -> web.Response:
        path = await self._receive(request)
        if path is None:
            return _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        del self._uploads[request.match_info["upload"]]
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if digest != request.query.get("digest"):
            path.unlink()
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        path.replace(self._folder / digest)
        return web.Response(status=201, headers={"Location": f"/v2/{request.match_info['name']}/blobs/{digest}"})

    async def _manifest(self, request: web.Request) -> web.Response:
        held = self._manifests.get((request.match_info["name"], request.match_info["reference"]))
        if held is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        body, kind = held
        return web.Response(body=body, content_type=kind, headers={"Docker-Content-Digest": _digest(body)})

    async def _store(self, request: web.Request) -> web.Response:
        body, name = await request.read(), request.match_info["name"]
        for reference in (request.match_info["reference"], _digest(body)):
            self._manifests[name, reference] = (body, request.content_type)
        return web.Response(status=201, headers={"Docker-Content-Digest": _digest(body)})


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)


@asynccontextmanager
async def registry(folder: Path, login: tuple[str, str] | None = None) -> AsyncIterator[str]:
    """``host:port`` of a registry that keeps its blobs in ``folder``; ``login`` is the user and password that it asks for."""
    runner = web.AppRunner(_Registry(folder, login).application(), shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()
