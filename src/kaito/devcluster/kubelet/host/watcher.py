"""Ends what a local cluster has started once the cluster itself has ended, in whatever way.

The cluster runs this file as a script with Python's own library alone, and holds its standard input open. A container's
processes are those that carry its mark in their environment: also those that have left its session, or lost their parent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

VARIABLE = "KAITO_CONTAINER"
"""Environment variable of every process of a container: ``<cluster>.<pod>.<container>``."""
_DEADLINE = 10.0


def carriers(mark: str) -> list[int]:
    """Processes whose mark begins with ``mark``; those that have ended are none."""
    wanted, found = f"{VARIABLE}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        if environ.startswith(wanted) or b"\0" + wanted in environ:
            found.append(int(process.name))
    return found


def kill(mark: str) -> int:
    """Send SIGKILL to every process that carries ``mark``; how many there were."""
    pids = carriers(mark)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def main(cluster: str, folder: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    deadline = time.monotonic() + _DEADLINE
    while kill(f"{cluster}.") and time.monotonic() < deadline:
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
