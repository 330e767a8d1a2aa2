"""Newline-delimited JSON from a byte stream, without a limit that a large object could hit."""

from __future__ import annotations

from typing import final

from kaito.runtime.errors import DecodeError

MAX_LINE = 64 * 1024 * 1024
"""A guard against a stream that never ends a line; etcd refuses objects over 1.5 MiB."""


@final
class LineSplitter:
    """Collects chunks, gives whole lines. An incomplete last line stays until its rest arrives."""

    __slots__ = ("_buffer", "_limit", "_scanned")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._limit = limit

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their newline; blank lines are skipped. Raises DecodeError."""
        buffer = self._buffer
        if not buffer and chunk.endswith(b"\n"):
            return [line for line in chunk.split(b"\n") if line]
        buffer += chunk
        end = buffer.rfind(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(buffer)
            if self._scanned > self._limit:
                raise DecodeError(f"a line of more than {self._limit} bytes")
            return []
        whole = bytes(buffer[:end])
        del buffer[: end + 1]
        self._scanned = len(buffer)
        return [line for line in whole.split(b"\n") if line]

    @property
    def pending(self) -> int:
        """Bytes of the incomplete line."""
        return len(self._buffer)
