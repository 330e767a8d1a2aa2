"""Starting and stopping a local cluster as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from kaito.devcluster.state import Running, StateFolder, alive

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
_POLL = 0.05


class LocalClusterError(Exception):
    """The local cluster cannot be started or stopped; says why."""


def start(
    folder: StateFolder, *, port: int = 0, attached: bool = False, flags: Sequence[str] = ()
) -> tuple[Running, subprocess.Popen[bytes]]:
    """Start a local cluster, with further ``flags`` of ``python -m kaito.devcluster``, and return when it serves.

    ``attached``: the cluster ends when the process's ``stdin`` is closed, as it is when this process ends in whatever way.
    Raises LocalClusterError if one runs there already, or with the end of its log if it does not come up.
    """
    if folder.running() is not None:
        raise LocalClusterError(f"a local cluster runs in {folder.path} already: see `kaito dev status`")
    folder.create()
    folder.clear()
    command = [sys.executable, "-m", "kaito.devcluster", "--directory", str(folder.path), "--port", str(port), *flags]
    if attached:
        command.append("--attached")
    with folder.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT
    while (running := folder.running()) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise LocalClusterError(f"the local cluster did not come up:\n{_tail(folder)}")
        time.sleep(_POLL)
    return running, process


def stop(folder: StateFolder) -> bool:
    """Stop the cluster of ``folder`` and the operator beside it, wait until both have ended, and remove their files.

    False if no cluster was running.
    """
    end_operator(folder)
    running = folder.running()
    if running is not None:
        end(running.pid)
    folder.remove()
    return running is not None


def end_operator(folder: StateFolder) -> None:
    """End the operator beside the cluster of ``folder``, if there is one."""
    if folder.operator_pid.is_file():
        end(int(folder.operator_pid.read_text()))


def end(pid: int) -> None:
    """Ask a process to end, wait, and kill it if it does not."""
    if not alive(pid):
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        _reap(pid)
        time.sleep(_POLL)


def _reap(pid: int) -> None:
    """Take note of the end of a child, so that it does not stay as a zombie; other processes have another parent."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _tail(folder: StateFolder, lines: int = 20) -> str:
    return "\n".join(folder.log.read_text(errors="replace").splitlines()[-lines:])
