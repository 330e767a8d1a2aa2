"""One process of a container: started, heard, measured and ended with all that it has started itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from kaito.devcluster.kubelet.host.logfile import LogFile
from kaito.devcluster.kubelet.host.streams import Streams
from kaito.devcluster.kubelet.host.watcher import VARIABLE, carriers, kill

_MEASURE = 0.5
"""Seconds between two looks at the memory of a container that has a limit."""
_PAGE = os.sysconf("SC_PAGESIZE")


@final
class HostProcess:
    """Made by ``start``. ``wait`` returns when it and everything that carries its mark has ended."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: Streams,
        mark: str,
        log: LogFile,
        memory: int,
    ) -> None:
        self._process = process
        self.streams = streams
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
        stdin: bool = False,
        once: bool = False,
        tty: bool = False,
    ) -> HostProcess:
        """``memory`` is the limit in bytes, 0 for none; the others are as of ``Streams.open``. Raises OSError where it cannot
        be started."""
        streams, ends = await Streams.open(stdin=stdin, once=once, tty=tty)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=ends.stdin,
                stdout=ends.stdout,
                stderr=ends.stderr,
                env={**environ, VARIABLE: mark},
                cwd=directory,
                start_new_session=True,
            )
        except BaseException:
            ends.close()
            await streams.copy(log, lambda: datetime.now(UTC))
            raise
        ends.close()
        return HostProcess(process, streams, mark, log, memory)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self, now: Callable[[], datetime]) -> int:
        """The exit code, 128 + n for signal n. Whoever cancels it ends the process."""
        reading = asyncio.create_task(self.streams.copy(self._log, now), name=f"output of {self.pid}")
        measuring = asyncio.create_task(self._measure(), name=f"memory of {self.pid}")
        try:
            code = await self._process.wait()
        finally:
            measuring.cancel()
            await end_all(self._mark)
            await self._process.wait()
            await asyncio.wait([reading, measuring])
            self._log.close()
        reading.result()
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
