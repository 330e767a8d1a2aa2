"""The server's side of SPDY/3.1, as far as kubectl uses it: streams with headers over one connection, no flow control.

Source: the draft "SPDY Protocol - Draft 3.1" of the Chromium project. Headers are compressed with one zlib context for each
direction, that begins with a dictionary of the protocol.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import Final, Protocol

VERSION: Final = 3
MAX_FRAME: Final = 1 << 20
"""Bytes of the largest frame that is read; kubectl's are of 32 KiB."""
MAX_HEADERS: Final = 64 * 1024
_QUEUED: Final = 16
"""Frames of a stream that wait to be read, before the connection waits for the reader."""
_FIN: Final = 0x01
_HEAD: Final = struct.Struct("!II")

_WORDS: Final = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_REST: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
    "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 "
    "Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec "
    "00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset="
    "iso-8859-1,utf-,*,enq=0."
)


def _counted(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


DICTIONARY: Final = b"".join(_counted(word.replace("_", " ").encode()) for word in _WORDS.split()) + _REST.encode()


class Type(IntEnum):
    """Of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class SpdyError(Exception):
    """The other end does not keep to the protocol."""


class Link(Protocol):
    """The bytes below: a connection, or a WebSocket with binary messages."""

    async def receive(self) -> bytes:
        """``b""`` where the other end has finished."""
        ...

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        ...


class Headers:
    """Compression of header blocks, in both directions of one connection."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADERS)
            if self._inflate.unconsumed_tail:
                raise SpdyError(f"headers of more than {MAX_HEADERS} bytes")
            texts = _texts(plain)
            return dict(zip(texts, texts, strict=True))
        except (zlib.error, struct.error, UnicodeDecodeError, ValueError) as error:
            raise SpdyError(f"headers that do not decode: {error}") from error

    def encode(self, headers: Mapping[str, str]) -> bytes:
        plain = len(headers).to_bytes(4, "big") + b"".join(
            _counted(text.encode()) for pair in headers.items() for text in pair
        )
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _texts(plain: bytes) -> Iterator[str]:
    """Names and values in turn."""
    (count,) = struct.unpack_from("!I", plain)
    position = 4
    for _ in range(2 * count):
        (length,) = struct.unpack_from("!I", plain, position)
        position += 4 + length
        if position > len(plain):
            raise SpdyError("headers end within a text")
        yield plain[position - length : position].decode()


def control(kind: Type, payload: bytes, flags: int = 0) -> bytes:
    return _HEAD.pack(1 << 31 | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def data(stream: int, payload: bytes, *, last: bool = False) -> bytes:
    return _HEAD.pack(stream, (_FIN if last else 0) << 24 | len(payload)) + payload


class Stream:
    """One stream that the client has opened. Each direction ends by itself, and both where the client resets it."""

    def __init__(self, session: Session, number: int, headers: Mapping[str, str]) -> None:
        self.number = number
        self.headers = headers
        self.on_reset: Callable[[], object] = lambda: None
        self._session = session
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED)
        self._read_to_end = self._ended = self._discards = False

    async def read(self) -> bytes:
        """``b""`` at the end."""
        if self._read_to_end:
            return b""
        found = await self._queue.get()
        self._read_to_end = not found
        return found

    async def write(self, content: bytes) -> None:
        """Raises ConnectionError."""
        await self._session.send(data(self.number, content))

    async def end(self) -> None:
        """Write no more. Idempotent."""
        if not self._ended:
            self._ended = True
            await self._session.send(data(self.number, b"", last=True))

    def discard(self) -> None:
        """Read no more: what still comes is dropped, so that the connection does not wait for it to be read."""
        self._discards = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(b"")

    def reset(self) -> None:
        self.discard()
        self.on_reset()

    async def arrived(self, content: bytes) -> None:
        if not self._discards:
            await self._queue.put(content)


class Session:
    """One connection. ``run`` reads it to its end; streams are given to ``opened`` as they come."""

    def __init__(self, link: Link, opened: Callable[[Stream], None]) -> None:
        self._link = link
        self._opened = opened
        self._headers = Headers()
        self._streams: dict[int, Stream] = {}
        self._buffer = bytearray()
        self._sending = asyncio.Lock()

    async def send(self, frame: bytes) -> None:
        async with self._sending:
            await self._link.send(frame)

    async def run(self) -> None:
        """Return when the connection ends, which resets its streams. Raises SpdyError, ConnectionError."""
        try:
            while (head := await self._take(_HEAD.size)) is not None:
                first, second = _HEAD.unpack(head)
                flags, length = second >> 24, second & 0xFFFFFF
                if length > MAX_FRAME:
                    raise SpdyError(f"a frame of {length} bytes; the most are {MAX_FRAME}")
                payload = await self._take(length)
                if payload is None:
                    return
                if first >> 31:
                    await self._control(first >> 16 & 0x7FFF, first & 0xFFFF, flags, payload)
                else:
                    await self._data(first, flags, payload)
        finally:
            for stream in self._streams.values():
                stream.reset()

    async def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            more = await self._link.receive()
            if not more:
                return None
            self._buffer += more
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def _control(self, version: int, kind: int, flags: int, payload: bytes) -> None:
        if version != VERSION:
            raise SpdyError(f"version {version}, expected {VERSION}")
        match kind:
            case Type.SYN_STREAM if len(payload) >= 10:
                number = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
                stream = self._streams[number] = Stream(self, number, self._headers.decode(payload[10:]))
                async with self._sending:
                    reply = number.to_bytes(4, "big") + self._headers.encode({})
                    await self._link.send(control(Type.SYN_REPLY, reply))
                self._opened(stream)
                if flags & _FIN:
                    await stream.arrived(b"")
            case Type.RST_STREAM if len(payload) == 8:
                gone = self._streams.pop(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, None)
                if gone is not None:
                    gone.reset()
            case Type.PING:
                await self.send(control(Type.PING, payload))
            case Type.HEADERS if len(payload) >= 4:
                self._headers.decode(payload[4:])  # keeps the compression in step
            case Type.SETTINGS | Type.GOAWAY | Type.WINDOW_UPDATE:
                pass
            case _:
                raise SpdyError(f"a control frame of type {kind} and {len(payload)} bytes")

    async def _data(self, number: int, flags: int, payload: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if payload:
            await stream.arrived(payload)
        if flags & _FIN:
            await stream.arrived(b"")

    def forget(self, stream: Stream) -> None:
        """Drop what still comes for ``stream``."""
        self._streams.pop(stream.number, None)
