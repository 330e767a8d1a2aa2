"""A way to a Service of the cluster from this machine: kubectl's port-forward, for as long as it is needed."""

from __future__ import annotations

import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from kaito.cli.errors import fail

if TYPE_CHECKING:
    from kaito.cli.cluster.connect import Target

_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Requests to what is forwarded pass no proxy."""


@contextmanager
def forwarded(target: Target, service: str, port: int = 80) -> Iterator[str]:
    """The URL at which ``port`` of ``service`` answers within; ends the program in words where there is no way to it."""
    words = [*target.kubectl(), "port-forward", "--address=127.0.0.1", "--pod-running-timeout=20s"]
    process = subprocess.Popen(
        [*words, f"service/{service}", f":{port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            found = _FORWARDING.match(process.stdout.readline())
            if found is None:
                told = process.stderr.read().strip() or "kubectl port-forward did not begin"
                fail(f"Service {service} cannot be reached: {told.removeprefix('error: ')}", code=1)
            for pipe in (process.stdout, process.stderr):
                threading.Thread(target=_drain, args=(pipe,), daemon=True).start()
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def _drain(pipe: IO[str]) -> None:
    for _ in pipe:
        pass
