"""The model server as a process that is told to end while something takes for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
LIMIT = 30.0


@contextmanager
def _server(where: str, until: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that has said ``until``, and its URL."""
    words = [str(HERE / "stuck.py"), where, "--host=127.0.0.1", "--port=0", "--drain-delay=0", "--drain-timeout=0.2"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr
        try:
            lines = [process.stderr.readline()]
            while until not in lines[-1]:
                assert lines[-1], "".join(lines)
                lines.append(process.stderr.readline())
            listening = next(line for line in lines if "listening on" in line)
            host, port = listening.rpartition(" ")[2].strip().split(":")
            yield process, f"http://{host}:{port}"
        finally:
            process.kill()


def test_a_model_that_is_being_loaded_is_not_waited_for() -> None:
    with _server("load", "listening on") as (process, _):
        process.terminate()
        assert process.wait(LIMIT) == 0


def test_a_step_that_takes_for_ever_is_not_waited_for() -> None:
    def ask() -> int:
        request = urllib.request.Request(
            f"{url}/v1/completions", b'{"prompt":"x"}', {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    with _server("step", "is ready after") as (process, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        while True:
            with urllib.request.urlopen(f"{url}/metrics", timeout=LIMIT) as response:
                if b"sequences_running 1.0" in response.read():
                    break
        process.terminate()
        assert answer.result(LIMIT) == 503
        assert process.wait(LIMIT) == 0
