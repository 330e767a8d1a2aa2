"""Folders in the system's temporary one that go with the block that made them, and with the next one if that was killed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".lock"
"""Locked, by each process that needs the folder, until it ends in whatever way."""


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A folder of the name ``prefix`` and something. Those that killed processes have left under that name are removed."""
    if sys.platform == "win32":
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield Path(name)
        return
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        lock = _locked(folder)
        try:
            yield folder
        finally:
            os.close(lock)


def hold(folder: Path) -> None:
    """Let a scratch folder stay until this process has ended; another folder stays anyway."""
    if sys.platform == "win32":
        return
    import fcntl

    with suppress(FileNotFoundError, BlockingIOError):
        fcntl.flock(os.open(folder / _LOCK, os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _locked(folder: Path) -> int:
    """The lock comes into the folder locked: nobody finds it free while this process lives."""
    import fcntl

    staged = folder / f"{_LOCK}-new"
    lock = os.open(staged, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    staged.rename(folder / _LOCK)
    return lock


def _sweep(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether the folder is this user's, and nobody needs it any more."""
    import fcntl

    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
