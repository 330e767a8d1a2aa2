"""The registry's HTTP interface (OCI distribution 1.1): blobs and manifests of one repository, with logins and retries."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, final

import aiohttp
from yarl import URL

from kaito.oci.credentials import Login
from kaito.oci.errors import AuthError, ImageNotFound, IntegrityError, RegistryError
from kaito.oci.reference import Reference

T = TypeVar("T")

TRIES = 5
CHUNK = 16 << 20
"""Bytes of a blob that are sent at a time; smaller blobs go in one request."""
MAX_MANIFEST = 4 << 20
"""Bytes; what registries take."""
SILENCE = 60.0
"""Seconds without a byte after which a connection counts as broken."""
PAUSE = 0.5
"""Seconds before the second try; doubled before each further one, up to ``MAX_DELAY``."""
MAX_DELAY = 60.0
_PIECE = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


class _TryAgain(Exception):
    """Something that may pass; ``delay`` in seconds is what the registry asks for."""

    def __init__(self, words: str, delay: float | None = None) -> None:
        super().__init__(words)
        self.delay = delay


@final
class Repository:
    """One repository of a registry, made by ``connect``. Methods raise the errors of ``kaito.oci.errors``."""

    def __init__(
        self, session: aiohttp.ClientSession, reference: Reference, login: Login | None, *, plain: bool
    ) -> None:
        self._session = session
        self._reference = reference
        self._login = login
        self._base = URL(f"{'http' if plain else 'https'}://{reference.host}/v2/")
        self._prefix = self._base / reference.repository
        self._authorization: str | None = None

    # Reading

    async def manifest(self, version: str, accept: str) -> tuple[bytes, str]:
        """The bytes of the manifest that ``version``, a tag or digest, names, and their digest."""

        async def get() -> tuple[bytes, str]:
            async with self._send("GET", self._prefix / "manifests" / version, headers={"Accept": accept}) as answer:
                body = b""
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MAX_MANIFEST:
                        raise IntegrityError(f"{self._reference}: its manifest has more than {MAX_MANIFEST >> 20} MiB")
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if version.startswith("sha256:") and digest != version:
                raise IntegrityError(f"{self._reference}: the registry sent {digest} where {version} was asked for")
            return body, digest

        return await self._tried(get)

    async def download(self, digest: str, size: int, target: Path) -> None:
        """The blob into ``target``, whole and as its digest says; goes on where a broken connection left off."""
        target.write_bytes(b"")

        async def get() -> None:
            have = target.stat().st_size
            headers = {"Range": f"bytes={have}-"} if have else {}
            async with self._send("GET", self._prefix / "blobs" / digest, headers=headers) as answer:
                with target.open("ab" if answer.status == 206 else "wb") as file:
                    left = size - file.tell()
                    async for piece in answer.content.iter_chunked(_PIECE):
                        left -= len(piece)
                        if left < 0:
                            raise IntegrityError(
                                f"{self._reference}: {digest} is larger than the {size} bytes announced"
                            )
                        file.write(piece)
            if left:
                raise _TryAgain(f"{digest} ended {left} bytes early")

        await self._tried(get)
        with target.open("rb") as file:
            actual = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if actual != digest:
            raise IntegrityError(f"{self._reference}: the registry sent {actual} where {digest} was asked for")

    # Writing

    async def has_blob(self, digest: str) -> bool:
        async def head() -> bool:
            try:
                async with self._send("HEAD", self._prefix / "blobs" / digest):
                    return True
            except ImageNotFound:
                return False

        return await self._tried(head)

    async def upload(self, content: Path | bytes, digest: str) -> bool:
        """Store a blob; False where the registry had it already."""
        if await self.has_blob(digest):
            return False
        size = len(content) if isinstance(content, bytes) else content.stat().st_size

        async def put() -> None:
            async with self._send("POST", self._prefix / "blobs" / "uploads" / "") as answer:
                place = self._location(answer)
            sent = 0
            while size - sent > CHUNK:
                piece = await asyncio.to_thread(_read, content, sent, CHUNK)
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{sent}-{sent + len(piece) - 1}",
                }
                async with self._send("PATCH", place, headers=headers, data=piece) as answer:
                    place = self._location(answer)
                sent += len(piece)
            rest = await asyncio.to_thread(_read, content, sent, CHUNK)
            headers = {"Content-Type": "application/octet-stream"}
            if sent:
                headers["Content-Range"] = f"{sent}-{size - 1}"
            place = place.update_query({"digest": digest})
            async with self._send("PUT", place, headers=headers, data=rest):
                return

        await self._tried(put)
        return True

    async def put_manifest(self, version: str, body: bytes, media_type: str) -> None:
        async def put() -> None:
            place = self._prefix / "manifests" / version
            async with self._send("PUT", place, headers={"Content-Type": media_type}, data=body) as answer:
                said = answer.headers.get("Docker-Content-Digest")
            own = f"sha256:{hashlib.sha256(body).hexdigest()}"
            if said is not None and said != own:
                raise IntegrityError(f"{self._reference}: the registry calls {said} what was sent as {own}")

        await self._tried(put)

    # Requests

    async def _tried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        for number in range(1, TRIES + 1):
            try:
                return await attempt()
            except _TryAgain as error:
                words, delay = str(error), error.delay
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                words, delay = str(error) or type(error).__name__, None
            if number < TRIES:
                backoff = PAUSE * 2 ** (number - 1) * random.uniform(1.0, 1.5)
                await asyncio.sleep(min(MAX_DELAY, backoff if delay is None else delay))
        raise RegistryError(f"{self._reference}: given up after {TRIES} attempts: {words}")

    @asynccontextmanager
    async def _send(
        self, method: str, url: URL, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; a login is tried once where the registry asks for one. Raises _TryAgain for what may pass."""
        for attempt in (1, 2):
            own = dict(headers or {})
            # An upload may go on elsewhere, which has no business with our login.
            if self._authorization is not None and url.origin() == self._base.origin():
                own["Authorization"] = self._authorization
            async with self._session.request(method, url, headers=own, data=data) as answer:
                if answer.status == 401 and attempt == 1:
                    self._authorization = await self._authorize(answer.headers.getall("WWW-Authenticate", []))
                    continue
                await self._check(answer)
                yield answer
                return

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        status = answer.status
        if status < 400:
            return
        words = _words(await answer.content.read(64 << 10)) if answer.method != "HEAD" else ""
        said = f"{status}{f': {words}' if words else ''}"
        if status in (401, 403):
            who = (
                f"the login {self._login.username!r}"
                if self._login and self._login.username
                else "an anonymous request"
            )
            raise AuthError(
                f"{self._reference}: {self._reference.registry} refused {who} ({said}): check the registry's secret and that "
                f"it may {'read' if answer.method in ('GET', 'HEAD') else 'write'} {self._reference.repository}"
            )
        if status == 404:
            raise ImageNotFound(f"{self._reference} does not exist ({said})")
        if status in _PASSING:
            raise _TryAgain(f"{answer.method} {answer.url.path}: {said}", _seconds(answer.headers.get("Retry-After")))
        raise RegistryError(f"{self._reference}: {answer.method} {answer.url.path} was refused: {said}")

    async def _authorize(self, challenges: list[str]) -> str | None:
        """The Authorization header that answers a challenge; None where there is no login for it."""
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                return await self._token(dict(_PARAMETER.findall(rest)))
            if scheme.lower() == "basic" and self._login is not None:
                return self._login.basic()
        return None

    async def _token(self, asked: Mapping[str, str]) -> str:
        realm = URL(asked.get("realm", ""))
        if realm.scheme not in ("http", "https") or (realm.scheme == "http" and self._base.scheme == "https"):
            raise AuthError(
                f"{self._reference.registry} names {str(realm)!r} as its token service: it must be an https URL"
            )
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        login = self._login
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "kaito", **query}
            request = self._session.post(realm, data=form)
        else:
            headers = {"Authorization": login.basic()} if login is not None else {}
            request = self._session.get(realm.update_query(query), headers=headers)
        async with request as answer:
            await self._check(answer)
            try:
                granted = json.loads(await answer.content.read(1 << 20))
                token = granted.get("token") or granted["access_token"]
            except (ValueError, KeyError, AttributeError):
                raise AuthError(
                    f"{realm.host}, the token service of {self._reference.registry}, gave no token"
                ) from None
        return f"Bearer {token}"

    def _location(self, answer: aiohttp.ClientResponse) -> URL:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._reference}: the registry does not say where to upload to")
        place = self._base.join(URL(location, encoded=True))
        if place.scheme not in ("http", "https") or (place.scheme == "http" and self._base.scheme == "https"):
            raise RegistryError(
                f"{self._reference}: the registry wants the upload sent to {place.origin()}, without TLS"
            )
        return place


@asynccontextmanager
async def connect(reference: Reference, login: Login | None, *, plain: bool = False) -> AsyncIterator[Repository]:
    """``plain`` speaks HTTP without TLS, as is always done with a registry on this machine."""
    timeout = aiohttp.ClientTimeout(total=None, connect=SILENCE, sock_read=SILENCE)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield Repository(session, reference, login, plain=plain or reference.loopback)


def _read(content: Path | bytes, start: int, count: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + count]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(count)


def _words(body: bytes) -> str:
    """What a registry says of an error."""
    try:
        errors: Any = json.loads(body)["errors"]
        return "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace").strip()[:200]


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
