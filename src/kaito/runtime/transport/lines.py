"""Newline-delimited JSON from a byte stream, without a limit that a large object could hit."""

from __future__ import annotations

from typing import final

from kaito.runtime.errors import DecodeError

MAX_LINE = 64 * 1024 * 1024
"""A guard against a stream that never ends a line; etcd refuses objects over 1.5 MiB."""


@final
class LineSplitter:
    """Collects chunks, gives whole lines. An incomplete last line stays until its rest arrives."""

    __slots__ = ("_limit", "_parts", "pending")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._parts: list[bytes] = []
        self._limit = limit
        self.pending = 0
        """Bytes of the incomplete line."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` completes, without their newline; blank lines are skipped. Raises DecodeError."""
        lines = chunk.split(b"\n")
        if len(lines) > 1 and self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts.clear()
            self.pending = 0
        if rest := lines.pop():
            self._parts.append(rest)
            self.pending += len(rest)
            if self.pending > self._limit:
                raise DecodeError(f"a line of more than {self._limit} bytes")
        return [line for line in lines if line]
