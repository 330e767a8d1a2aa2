"""What a container has written: a file with a time before each line, and readers that follow it as it grows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Protocol, final

MAX_BYTES = 10 << 20
"""Size at which a log begins anew, as a kubelet's does."""
_BLOCK = 1 << 16


class Options(Protocol):
    """The part of ``core/v1 PodLogOptions`` that is about the lines."""

    @property
    def follow(self) -> bool: ...
    @property
    def timestamps(self) -> bool: ...
    @property
    def since_seconds(self) -> int | None: ...
    @property
    def since_time(self) -> datetime | None: ...
    @property
    def tail_lines(self) -> int | None: ...
    @property
    def limit_bytes(self) -> int | None: ...


def stamp(moment: datetime) -> bytes:
    """RFC 3339 with nanoseconds: of equal length, so that order is that of time."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z".encode()


@final
class LogFile:
    """Written by one process. ``close`` ends those who follow."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)
        self._size = 0
        self._generation = 0
        self._closed = False
        self._news = asyncio.Event()
        self.on_read: Callable[[], None] = lambda: None
        """Told when somebody has been given all of it."""

    def write(self, line: bytes, moment: datetime) -> None:
        """Append one line, given without its end."""
        if self._size >= self._max_bytes:
            self._path.unlink()
            self._file.close()
            self._file = self._path.open("wb", buffering=0)
            self._size, self._generation = 0, self._generation + 1
        self._size += self._file.write(b"%b %b\n" % (stamp(moment), line))
        self._tell()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._file.close()
            self._tell()

    def remove(self) -> None:
        """Of a closed log, the file."""
        self._path.unlink(missing_ok=True)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self, options: Options) -> AsyncGenerator[bytes, None]:
        """The lines that ``options`` ask for."""
        since = b""
        if options.since_seconds is not None:
            since = stamp(datetime.now(UTC) - timedelta(seconds=options.since_seconds))
        elif options.since_time is not None:
            since = stamp(options.since_time)
        left = options.limit_bytes
        file, generation = self._open()
        whole = not since and options.tail_lines is None
        try:
            if options.tail_lines is not None:
                _seek_tail(file, options.tail_lines)
            while True:
                news, over = self._news, self._closed
                while lines := file.readlines(_BLOCK):
                    text = b"".join(
                        line if options.timestamps else line.partition(b" ")[2] for line in lines if line >= since
                    )
                    if left is not None:
                        text = text[:left]
                        left -= len(text)
                    if text:
                        yield text
                    if left == 0:
                        return
                if generation != self._generation:
                    file.close()
                    file, generation = self._open()
                    continue
                if whole:
                    self.on_read()
                if over or not options.follow:
                    return
                else:
                    await news.wait()
        finally:
            file.close()

    def _open(self) -> tuple[BinaryIO, int]:
        return self._path.open("rb"), self._generation


def _seek_tail(file: BinaryIO, lines: int) -> None:
    """Go to where the last ``lines`` lines begin."""
    position = file.seek(0, os.SEEK_END)
    found = 0
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        block = file.read(position - start)
        for index in range(len(block) - 1, -1, -1):
            if block[index] == 0x0A:
                found += 1
                if found > lines:
                    file.seek(start + index + 1)
                    return
        position = start
    file.seek(0)
