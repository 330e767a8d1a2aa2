"""Directories for what a process writes for itself; those that a killed process has left are removed by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import final


@final
class Scratch:
    """A directory that is this process's as long as it lives, also where it becomes another program.

    The owner has a lock on it, as has whoever ``hold``s it, too, which the kernel takes back when the process is gone: making
    the next one of the same ``kind`` removes it then.
    """

    __slots__ = ("_lock", "path")

    def __init__(self, kind: str) -> None:
        prefix = f"kaito-scratch-{kind}-"
        for path in Path(gettempdir()).glob(f"{prefix}*"):
            _remove_abandoned(path)
        lock = None
        while lock is None:
            # One that is not locked yet may be taken for abandoned.
            self.path = Path(mkdtemp(prefix=prefix))
            lock = _locked(self.path, fcntl.LOCK_SH)
        os.set_inheritable(lock, True)
        self._lock = lock

    def remove(self) -> None:
        """What is being written finds no place under the old name. Whoever was given it may have removed it before."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path.rename(f"{self.path}-gone"))
        os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.remove()


def hold(path: Path) -> None:
    """Keep a scratch directory until this process has ended, even if that of its owner has."""
    _locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _remove_abandoned(path: Path) -> None:
    lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path, how: int) -> int | None:
    """A lock on our directory ``path``; None where it is gone, somebody else's, or another process has the lock."""
    try:
        opened = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        if os.fstat(opened).st_uid == os.geteuid():
            fcntl.flock(opened, how)
            if path.exists():
                return opened
    except BlockingIOError:
        pass
    os.close(opened)
    return None
