"""One process of a container: started, heard, measured and ended with all that it has started itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import final

from kaito.devcluster.kubelet.host.logfile import LogFile
from kaito.devcluster.kubelet.host.watcher import VARIABLE, carriers, kill

_CHUNK = 1 << 16
_MAX_LINE = 1 << 16
"""Bytes after which a line without end is written as one."""
_MEASURE = 0.5
"""Seconds between two looks at the memory of a container that has a limit."""
_PAGE = os.sysconf("SC_PAGESIZE")


@final
class HostProcess:
    """Made by ``start``. ``wait`` returns when it and everything that carries its mark has ended."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        outputs: Sequence[asyncio.StreamReader],
        mark: str,
        log: LogFile,
        memory: int,
    ) -> None:
        self._process = process
        self._outputs = outputs
        self._mark = mark
        self._log = log
        self._memory = memory
        self.out_of_memory = False

    @staticmethod
    async def start(
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        directory: Path,
        mark: str,
        log: LogFile,
        memory: int = 0,
    ) -> HostProcess:
        """``memory`` is the limit in bytes, 0 for none. Raises OSError where it cannot be started."""
        # asyncio's own pipes would keep a process that has ended waiting for whoever else still holds them.
        (out, out_end), (err, err_end) = await _pipe(), await _pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out_end,
                stderr=err_end,
                env={**environ, VARIABLE: mark},
                cwd=directory,
                start_new_session=True,
            )
        except BaseException:
            for end in (out_end, err_end):
                os.close(end)
            await asyncio.wait([asyncio.create_task(stream.read()) for stream in (out, err)])
            raise
        for end in (out_end, err_end):
            os.close(end)
        return HostProcess(process, (out, err), mark, log, memory)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self, now: Callable[[], datetime]) -> int:
        """The exit code, 128 + n for signal n. Whoever cancels it ends the process."""
        reading = [
            asyncio.create_task(_copy(stream, self._log, now), name=f"output of {self.pid}") for stream in self._outputs
        ]
        measuring = asyncio.create_task(self._measure(), name=f"memory of {self.pid}")
        try:
            code = await self._process.wait()
        finally:
            measuring.cancel()
            await end_all(self._mark)
            await self._process.wait()
            await asyncio.wait([*reading, measuring])
            self._log.close()
        for task in reading:
            task.result()
        return 128 - code if code < 0 else code

    def signal(self, number: signal.Signals) -> None:
        """To the process alone, as to the first process of a container."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        kill(self._mark)

    async def _measure(self) -> None:
        while self._memory:
            await asyncio.sleep(_MEASURE)
            if sum(map(_private_bytes, carriers(self._mark))) > self._memory:
                self.out_of_memory = True
                self.kill()
                return


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    """What is read of a pipe, and the descriptor to write to it."""
    reading, writing = os.pipe()
    loop, stream = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", buffering=0))
    return stream, writing


async def end_all(mark: str) -> None:
    """Kill what carries ``mark``, and what it has started meanwhile."""
    left = kill(mark)
    while left:
        await asyncio.sleep(0.01)
        left = kill(mark)


def _private_bytes(pid: int) -> int:
    """Resident memory that is not shared with a file."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(words[1]) - int(words[2])) * _PAGE


async def _copy(stream: asyncio.StreamReader, log: LogFile, now: Callable[[], datetime]) -> None:
    rest = b""
    while chunk := await stream.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_LINE:
            lines.append(rest)
            rest = b""
        for line in lines:
            log.write(line, now())
    if rest:
        log.write(rest, now())
