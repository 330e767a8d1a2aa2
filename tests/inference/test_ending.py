"""The model server as a process that is told to end while something takes for ever."""

from __future__ import annotations

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from inference.process import server

LIMIT = 30.0


def test_a_model_that_is_being_loaded_is_not_waited_for() -> None:
    with server("load", "listening on") as (process, _):
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

    with server("step", "is ready after") as (process, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        while True:
            with urllib.request.urlopen(f"{url}/metrics", timeout=LIMIT) as response:
                if b"sequences_running 1.0" in response.read():
                    break
        process.terminate()
        assert answer.result(LIMIT) == 503
        assert process.wait(LIMIT) == 0
