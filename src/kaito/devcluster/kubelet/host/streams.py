"""The standard streams of a container's process: they go to its log, and to those who attach."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import final

from kaito.devcluster.kubelet.host.logfile import LogFile

_CHUNK = 1 << 16
_MAX_LINE = 1 << 16
"""Bytes after which a line without end is written as one."""
_END_OF_INPUT = b"\x04"
"""To a terminal."""
_MAX_HELD = 1 << 20
"""Bytes of output that are kept for a client that is slow, or not there yet; beyond them the oldest go."""

Piece = tuple[bool, bytes]
"""Whether it is from standard error, and what was written."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors that the process gets."""

    stdin: int
    stdout: int
    stderr: int

    def close(self) -> None:
        for descriptor in {self.stdin, self.stdout, self.stderr} - {asyncio.subprocess.DEVNULL}:
            os.close(descriptor)


class _Held:
    """Pieces of output, up to a size."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._size = 0

    def put(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._size += len(piece[1])
        while self._size > _MAX_HELD:
            self._size -= len(self._pieces.popleft()[1])

    def take(self) -> list[Piece]:
        taken, self._size = list(self._pieces), 0
        self._pieces.clear()
        return taken


@final
class Streams:
    """Made by ``open``. asyncio's own pipes would not do: with them a process that has ended counts as running as long as
    anybody holds its output."""

    def __init__(
        self,
        outputs: list[tuple[bool, asyncio.StreamReader]],
        stdin: _Input | None,
        terminal: int | None,
        once: bool,
    ) -> None:
        self._outputs = outputs
        self._stdin = stdin
        self._terminal = terminal
        self._once = once
        self._early = _Held()
        self._attached = False
        self._ended = False
        self._clients: set[Client] = set()

    @staticmethod
    async def open(*, stdin: bool = False, once: bool = False, tty: bool = False) -> tuple[Streams, Ends]:
        """``once``: the input of the process ends with that of the first client. ``tty``: all streams are one terminal."""
        if tty:
            terminal, line = pty.openpty()
            output, typed = await _reading(os.dup(terminal)), _Input(os.dup(terminal))
            return Streams([(False, output)], typed, terminal, once), Ends(line, line, line)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        outputs = [(False, await _reading(out)), (True, await _reading(err))]
        if not stdin:
            return Streams(outputs, None, None, once), Ends(asyncio.subprocess.DEVNULL, out_end, err_end)
        in_end, in_ = os.pipe()
        return Streams(outputs, _Input(in_), None, once), Ends(in_end, out_end, err_end)

    @property
    def has_input(self) -> bool:
        return self._stdin is not None

    async def copy(self, log: LogFile, now: Callable[[], datetime]) -> None:
        """Until nobody can write any more; then nothing is open."""
        log.on_read = self._forget_lines
        try:
            async with asyncio.TaskGroup() as group:
                for is_error, stream in self._outputs:
                    group.create_task(self._copy(is_error, stream, log, now))
        finally:
            self._ended = True
            if self._stdin is not None:
                self._stdin.abort()
            if self._terminal is not None:
                os.close(self._terminal)
                self._terminal = None
            for client in self._clients:
                client.end()

    async def _copy(
        self, is_error: bool, stream: asyncio.StreamReader, log: LogFile, now: Callable[[], datetime]
    ) -> None:
        rest = b""
        # A terminal that nobody holds any more ends with an error.
        with contextlib.suppress(OSError):
            while chunk := await stream.read(_CHUNK):
                for client in self._clients:
                    client.put((is_error, chunk))
                if self.has_input and not self._attached:
                    self._early.put((is_error, chunk))
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _MAX_LINE:
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    log.write(line, now())
        if rest:
            log.write(rest, now())

    def _forget_lines(self) -> None:
        """Somebody has them from the log, as ``kubectl run`` does before it attaches. The beginning of a line is not there."""
        rests: dict[bool, bytes] = {}
        for is_error, data in self._early.take():
            rests[is_error] = (rests.get(is_error, b"") + data).rpartition(b"\n")[2]
        for is_error, rest in rests.items():
            self._early.put((is_error, rest))

    def attach(self) -> Client:
        """The first client of a process with an input gets what it has written before and nobody has read in the log."""
        client = Client(self)
        for piece in self._early.take():
            client.put(piece)
        self._attached = True
        if self._ended:
            client.end()
        self._clients.add(client)
        return client

    def detach(self, client: Client) -> None:
        self._clients.discard(client)

    def write(self, data: bytes) -> None:
        if self._stdin is not None:
            self._stdin.write(data)

    def close_input(self) -> None:
        if self._once and self._stdin is not None:
            if self._terminal is not None:
                self._stdin.write(_END_OF_INPUT)
            else:
                self._stdin.close()

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@final
class Client:
    """One who is attached: an ``Attachment`` of the API server."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._held = _Held()
        self._news = asyncio.Event()
        self._ended = False

    def put(self, piece: Piece) -> None:
        self._held.put(piece)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def output(self) -> AsyncGenerator[Piece, None]:
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                for piece in self._held.take():
                    yield piece
                if self._ended:
                    return
        finally:
            self._streams.detach(self)

    async def write(self, data: bytes) -> None:
        self._streams.write(data)

    def close_input(self) -> None:
        self._streams.close_input()

    def resize(self, columns: int, rows: int) -> None:
        self._streams.resize(columns, rows)


async def _reading(descriptor: int) -> asyncio.StreamReader:
    stream = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    return stream


@final
class _Input:
    """Writes to a descriptor, which it closes in the end. A transport of the event loop's would also read from a terminal."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._left = bytearray()
        self._ending = self._closed = False
        self._waits = False

    def write(self, data: bytes) -> None:
        if not self._ending:
            self._left += data
            self._flush()

    def close(self) -> None:
        """When all is written."""
        self._ending = True
        self._flush()

    def abort(self) -> None:
        """At once."""
        self._left.clear()
        self.close()

    def _flush(self) -> None:
        if self._closed:
            return
        try:
            while self._left:
                del self._left[: os.write(self._descriptor, self._left)]
        except BlockingIOError:
            if not self._waits:
                self._waits = True
                asyncio.get_running_loop().add_writer(self._descriptor, self._flush)
            return
        except OSError:
            self._left.clear()
            self._ending = True
        if self._waits:
            self._waits = False
            asyncio.get_running_loop().remove_writer(self._descriptor)
        if self._ending:
            self._closed = True
            os.close(self._descriptor)
