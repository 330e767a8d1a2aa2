"""What a container of our images is like: first process, unprivileged, on a root that cannot be written to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
USER = "65532"


@cache
def _program() -> str:
    """bubblewrap, which may be forbidden to make namespaces inside of a container."""
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("the images' programs are left out: bubblewrap is not installed")
    tried = [
        program,
        "--unshare-user",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "true",
    ]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("the images' programs are left out: bubblewrap cannot make namespaces here")
    return program


def command(prefix: Path, words: Sequence[str], mounts: Mapping[str, Path], environ: Mapping[str, str]) -> list[str]:
    """``words`` in the sandbox, with the virtual environment ``prefix``; ``mounts`` by their places inside, writable."""
    program = shutil.which("bwrap")
    if program is None:
        pytest.skip("bubblewrap is not installed: containers are left out")
    found = [
        program,
        "--unshare-user",
        "--unshare-pid",
        "--as-pid-1",
        "--die-with-parent",
        "--uid",
        USER,
        "--gid",
        USER,
    ]
    found += ["--clearenv", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for place in dict.fromkeys([*SYSTEM, sys.base_prefix, str(ROOT), str(prefix)]):
        found += ["--ro-bind-try", place, place]
    for place in ("/workspace/weights", "/mnt/adapter", "/mnt/config", "/mnt/data", "/mnt/results"):
        found += ["--dir", place]
    for place in ("/workspace/tfs/weights", "/workspace/vllm/weights"):
        found += ["--symlink", "/workspace/weights", place]
    for place, source in mounts.items():
        found += ["--bind", str(source), place]
    for name, value in {"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": "/tmp", **environ}.items():
        found += ["--setenv", name, value]
    return [*found, "--remount-ro", "/", "--chdir", "/workspace", "--", *words]


@contextmanager
def contained(
    prefix: Path, *words: str, mounts: Mapping[str, Path] | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A program in the sandbox; all that it says is in ``stdout``."""
    with subprocess.Popen(
        command(prefix, words, mounts or {}, environ or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def terminate(process: subprocess.Popen[str]) -> None:
    """As a kubelet does: a signal for the first process in the sandbox."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    os.kill(int(children.split()[0]), signal.SIGTERM)
