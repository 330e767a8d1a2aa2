"""Datasets from URLs: public ones only, whole, and gone on with."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from kaito.tuning.download import allowed, download, file_name
from kaito.tuning.errors import DownloadError

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaito.tuning.download.PAUSE", 0.001)


class Site:
    def __init__(self) -> None:
        self.respond: Respond = self.whole
        self.content = bytes(range(256)) * 100
        self.requests: list[web.Request] = []
        self.url = ""
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.respond(request)

    async def whole(self, request: web.Request) -> web.StreamResponse:
        if ranged := request.headers.get("Range"):
            return web.Response(status=206, body=self.content[int(ranged.removeprefix("bytes=").rstrip("-")) :])
        return web.Response(body=self.content)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    held = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", held.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    held.port = runner.addresses[0][1]
    held.url = f"http://127.0.0.1:{held.port}"
    yield held
    await runner.cleanup()


class Names(AbstractResolver):
    """A name server that answers with these addresses in turn."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        address = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None: ...


async def test_files_are_named_as_their_urls_end_and_checked(tmp_path: Path, site: Site) -> None:
    digest = hashlib.sha256(site.content).hexdigest()
    urls = [f"{site.url}/a/train.jsonl?token=x#sha256={digest}", f"{site.url}/b/train.jsonl", f"{site.url}/"]
    said: list[str] = []
    made = await download(urls, tmp_path, allow_private=True, say=said.append)
    assert [path.name for path in made] == ["train.jsonl", "train-2.jsonl", "data"]
    assert all(path.read_bytes() == site.content for path in made)
    assert "token" not in "".join(said)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in made}, "nothing else is left"


async def test_a_wrong_checksum_keeps_nothing(tmp_path: Path, site: Site) -> None:
    with pytest.raises(DownloadError, match="its checksum is"):
        await download([f"{site.url}/x.jsonl#sha256={'0' * 64}"], tmp_path, allow_private=True)
    assert list(tmp_path.iterdir()) == []


async def test_what_breaks_off_is_gone_on_with(tmp_path: Path, site: Site) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if len(site.requests) == 1:
            return web.Response(status=503)
        if len(site.requests) > 2:
            return await site.whole(request)
        response = web.StreamResponse(headers={"Content-Length": str(len(site.content))})
        await response.prepare(request)
        await response.write(site.content[:10_000])
        assert request.transport is not None
        request.transport.close()
        return response

    site.respond = respond
    (path,) = await download([f"{site.url}/x.jsonl"], tmp_path, allow_private=True)
    assert path.read_bytes() == site.content
    assert len(site.requests) == 3
    assert site.requests[2].headers["Range"].startswith("bytes=")


@pytest.mark.parametrize(
    ("status", "complaint"), [(404, "HTTP 404"), (503, "given up after 5 attempts: HTTP 503"), (200, "is empty")]
)
async def test_what_cannot_be_had_is_said(tmp_path: Path, site: Site, status: int, complaint: str) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    site.respond = respond
    with pytest.raises(DownloadError, match=complaint):
        await download([f"{site.url}/x.jsonl"], tmp_path, allow_private=True)


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_too_large_is_not_loaded(tmp_path: Path, site: Site, announced: bool) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if announced:
            return await site.whole(request)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(site.content)
        return response

    site.respond = respond
    with pytest.raises(DownloadError, match=r"at most"):
        await download([f"{site.url}/x.jsonl"], tmp_path, max_bytes=1000, allow_private=True)


@pytest.mark.parametrize(
    ("size", "complaint"),
    [(10 << 30, "at most 1000000 are loaded"), (1 << 60, "has room for")],
    ids=["10 GiB", "1 EiB"],
)
async def test_a_file_that_claims_to_be_huge_is_not_begun(
    tmp_path: Path, site: Site, size: int, complaint: str
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        await response.write(b"x")
        return response

    site.respond = respond
    with pytest.raises(DownloadError, match=complaint):
        await download(
            [f"{site.url}/x.parquet"], tmp_path, max_bytes=1_000_000 if size < 1 << 40 else 1 << 62, allow_private=True
        )
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://example.com/x", "http and https URLs only"),
        ("file:///etc/passwd", "http and https URLs only"),
        ("no url", "http and https URLs only"),
        ("http://example.com/x#md5=1", "what follows # must be"),
        ("http://127.0.0.1/x", "private network or of this machine"),
        ("http://169.254.169.254/metadata/identity", "private network"),
        ("http://[::1]/x", "private network"),
        ("http://[::ffff:10.0.0.1]/x", "private network"),
        ("http://localhost/x", "private network"),
    ],
)
async def test_what_is_not_a_public_dataset_is_refused(tmp_path: Path, url: str, complaint: str) -> None:
    with pytest.raises(DownloadError, match=complaint):
        await download([url], tmp_path)


async def test_a_redirect_is_followed_to_public_places_only(tmp_path: Path, site: Site) -> None:
    places = {"/a": "/b", "/b": "ftp://elsewhere/x", "/loop": "/loop"}

    async def respond(request: web.Request) -> web.StreamResponse:
        if request.path in places:
            return web.Response(status=302, headers={"Location": places[request.path]})
        return await site.whole(request)

    site.respond = respond
    with pytest.raises(DownloadError, match="leads to a ftp URL"):
        await download([f"{site.url}/a"], tmp_path, allow_private=True)
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        await download([f"{site.url}/loop"], tmp_path, allow_private=True)
    places["/b"] = "/there.jsonl"
    (path,) = await download([f"{site.url}/a"], tmp_path, allow_private=True)
    assert path.read_bytes() == site.content


async def test_a_name_that_turns_into_a_private_address_is_found_out(tmp_path: Path, site: Site) -> None:
    """The address that was looked at is the one that is connected to, each time anew."""
    with pytest.raises(DownloadError, match=r"data\.example\.com \(10\.1\.2\.3\)"):
        await download(["http://data.example.com/x"], tmp_path, resolver=Names("10.1.2.3"))
    (path,) = await download(
        [f"http://data.example.com:{site.port}/x"], tmp_path, resolver=Names("127.0.0.1"), allow_private=True
    )
    assert path.read_bytes() == site.content


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("::ffff:127.0.0.1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert allowed(address) is public


def test_file_names_hold_nothing_strange() -> None:
    assert file_name(URL("http://x/a/..%2F..%2Fetc"), set()) == "etc"
    assert file_name(URL("http://x/.hidden"), set()) == "hidden"
    assert file_name(URL("http://x/a b;c.json"), set()) == "a_b_c.json"
