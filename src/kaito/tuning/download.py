"""Datasets from URLs: http and https only, never from addresses of the cluster's own unless that is allowed.

A URL is a user's; the pod that follows it stands inside the cluster. So every address that is connected to is checked, also
after a redirect and whatever its name resolves to at that moment.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import random
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from kaito.tuning.errors import DownloadError

TRIES = 5
PAUSE = 1.0
"""Seconds before the second try; doubled before each further one."""
SILENCE = 60.0
MAX_BYTES = 100 << 30
"""What one file may have, where nothing else is said."""
REDIRECTS = 5
_PIECE = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)

Say = Callable[[str], None]


class _TryAgain(Exception):
    pass


def allowed(address: str) -> bool:
    """Whether an IP address is anybody's on the internet: not this machine's, not a private network's, no metadata service."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast


class _Resolver(AbstractResolver):
    """Gives only addresses that are allowed; the connection is made to just what was checked."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            if not allowed(entry["host"]):
                raise DownloadError(_refusal(host, entry["host"]))
        return found

    async def close(self) -> None:
        await self._inner.close()


def _refusal(host: str, address: str) -> str:
    where = host if host == address else f"{host} ({address})"
    return f"{where} is an address of a private network or of this machine: datasets are loaded from public ones only"


async def download(
    urls: Iterable[str],
    folder: Path,
    *,
    max_bytes: int = MAX_BYTES,
    allow_private: bool = False,
    say: Say = lambda text: None,
    resolver: AbstractResolver | None = None,
) -> list[Path]:
    """Each URL into a file of ``folder``, named as the URL ends. Raises DownloadError.

    ``#sha256=…`` at the end of a URL is the checksum that the file must have. A file is there whole, or not at all; what an
    earlier call has left of it is gone on with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inner = resolver or aiohttp.ThreadedResolver()
    connector = aiohttp.TCPConnector(resolver=inner if allow_private else _Resolver(inner), use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=None, connect=SILENCE, sock_read=SILENCE)
    made: list[Path] = []
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        for text in urls:
            url = _parsed(text)
            target = folder / file_name(url, taken={path.name for path in made})
            await _fetch(session, url, target, max_bytes, allow_private)
            say(f"{_shown(url)}: {target.stat().st_size} bytes in {target}")
            made.append(target)
    return made


def _parsed(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError as error:
        raise DownloadError(f"{text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadError(f"{text!r}: datasets are loaded from http and https URLs only")
    if url.fragment and not re.fullmatch(r"sha256=[0-9a-fA-F]{64}", url.fragment):
        raise DownloadError(f"{text!r}: what follows # must be sha256= and 64 hexadecimal digits")
    return url


def file_name(url: URL, taken: set[str]) -> str:
    """The last part of the path; a number keeps two of one name apart."""
    name = re.sub(r"[^\w.+-]", "_", unquote(url.path).rstrip("/").rpartition("/")[2]).lstrip(".") or "data"
    stem, dot, suffix = name.partition(".")
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{dot}{suffix}"
    return name


async def _fetch(session: aiohttp.ClientSession, url: URL, target: Path, max_bytes: int, allow_private: bool) -> None:
    part = target.with_name(f".{target.name}.part")
    for attempt in range(1, TRIES + 1):
        try:
            await _attempt(session, url, part, max_bytes, allow_private)
            break
        except (_TryAgain, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            if isinstance(cause := error.__cause__ or error.__context__, DownloadError):
                raise cause from None
            if attempt == TRIES:
                words = str(error) or type(error).__name__
                raise DownloadError(f"{_shown(url)}: given up after {TRIES} attempts: {words}") from error
        await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(1.0, 1.5))
    if wanted := url.fragment.removeprefix("sha256=").lower():
        with part.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != wanted:
            part.unlink()
            raise DownloadError(f"{_shown(url)}: its checksum is {actual}, not {wanted}")
    part.replace(target)


async def _attempt(session: aiohttp.ClientSession, url: URL, part: Path, max_bytes: int, allow_private: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    place = url.with_fragment(None)
    for _ in range(REDIRECTS + 1):
        _check_literal(place, allow_private)
        async with session.get(place, headers=headers, allow_redirects=False) as answer:
            if answer.status in (301, 302, 303, 307, 308) and (location := answer.headers.get("Location")):
                place = place.join(URL(location))
                if place.scheme not in ("http", "https"):
                    raise DownloadError(
                        f"{_shown(url)} leads to a {place.scheme} URL: only http and https are followed"
                    )
                continue
            if answer.status == 416 and have:
                part.unlink()
                raise _TryAgain("what was loaded before does not fit any more")
            if answer.status in _PASSING:
                raise _TryAgain(f"HTTP {answer.status}")
            if answer.status not in (200, 206):
                raise DownloadError(f"{_shown(url)}: HTTP {answer.status} {answer.reason}")
            await _store(answer, url, part, max_bytes)
            return
    raise DownloadError(f"{_shown(url)}: more than {REDIRECTS} redirects")


async def _store(answer: aiohttp.ClientResponse, url: URL, part: Path, max_bytes: int) -> None:
    with part.open("ab" if answer.status == 206 else "wb") as file:
        have = file.tell()
        if (announced := answer.content_length) is not None and have + announced > max_bytes:
            raise DownloadError(f"{_shown(url)} has {have + announced} bytes: at most {max_bytes} are loaded")
        if announced is not None and announced > (free := shutil.disk_usage(part.parent).free):
            raise DownloadError(f"{_shown(url)} has {announced} bytes more, and {part.parent} has room for {free}")
        async for piece in answer.content.iter_chunked(_PIECE):
            have += len(piece)
            if have > max_bytes:
                raise DownloadError(f"{_shown(url)} has more than the {max_bytes} bytes that are loaded at most")
            file.write(piece)
    if have == 0:
        raise DownloadError(f"{_shown(url)} is empty")


def _check_literal(place: URL, allow_private: bool) -> None:
    """Addresses in a URL are not resolved, so they are looked at here."""
    host = place.host or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not allow_private and not allowed(str(address)):
        raise DownloadError(_refusal(host, host))


def _shown(url: URL) -> str:
    """Without user and query, which may be a login or a signature."""
    return str(url.with_user(None).with_query(None).with_fragment(None))
