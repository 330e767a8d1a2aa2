"""Debian's docker-registry, with a password."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.cluster import until
from support.registry import PASSWORD, USER


@contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """``host:port`` of one on the loopback address, for ``USER`` and ``PASSWORD``; skips the test where it is not installed."""
    program = shutil.which("docker-registry")
    htpasswd = shutil.which("htpasswd")
    if program is None or htpasswd is None:
        pytest.skip("docker-registry and htpasswd (apache2-utils) are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    users = subprocess.run([htpasswd, "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True).stdout
    (folder / "users").write_text(users)
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "users")}},
    }
    (folder / "registry.yml").write_text(json.dumps(config))

    def answers() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(
        [program, "serve", str(folder / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(answers, "the registry answers")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
