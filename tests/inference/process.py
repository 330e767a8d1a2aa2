"""The model server as a process, with an engine of the tests'."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def server(where: str, until: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that has said ``until``, and its URL; ``where`` its engine takes for ever."""
    words = [
        str(HERE / "stuck.py"),
        where,
        "--host=127.0.0.1",
        "--port=0",
        "--drain-delay=0",
        "--drain-timeout=0.2",
        *flags,
    ]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        rest: threading.Thread | None = None
        try:
            lines = [process.stderr.readline()]
            while until not in lines[-1]:
                assert lines[-1], "".join(lines)
                lines.append(process.stderr.readline())
            listening = next(line for line in lines if "listening on" in line)
            host, port = listening.rpartition(" ")[2].strip().split(":")
            # Nobody reads on: what is said from now on must not fill the pipe.
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            yield process, f"http://{host}:{port}"
        finally:
            process.kill()
            if rest is not None:
                rest.join()
