"""A model on several nodes: the first pod leads a Ray cluster, the others work in it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from kaito.inference.errors import ModelError

log = logging.getLogger(__name__)

_DEADLINE = 1800
"""Seconds in which all nodes have to come; the operator's startup probe has run out by then."""
_WAIT = """\
import sys, time, ray
ray.init(address="auto", logging_level="ERROR")
end = time.monotonic() + float(sys.argv[2])
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep(1)
"""


def lead(head: Sequence[str], nodes: int) -> None:
    """Start the cluster and wait for ``nodes`` nodes; raises ModelError."""
    if _call(head):
        raise ModelError("the Ray cluster did not start; the lines above say why")
    log.info("waiting for %d nodes", nodes)
    if _call((sys.executable, "-c", _WAIT, str(nodes), str(_DEADLINE))):
        raise ModelError(f"not all of {nodes} nodes came within {_DEADLINE} s")


def work(worker: Sequence[str], host: str, port: int) -> None:
    """Run ``worker`` until it ends or SIGTERM comes, and answer the probes meanwhile; raises ModelError where it fails."""
    health = ThreadingHTTPServer((host, port), _Health)
    threading.Thread(target=health.serve_forever, name="health", daemon=True).start()
    try:
        process = _start(worker)
        stopped = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            stopped.set()
            process.terminate()

        signal.signal(signal.SIGTERM, stop)
        code = process.wait()
    finally:
        health.shutdown()
        health.server_close()
    if not stopped.is_set():
        raise ModelError(f"the Ray worker ended with {code}; the lines above say why")


def _call(command: Sequence[str]) -> int:
    return _start(command).wait()


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise ModelError(f"{command[0]}: cannot be run: {error.strerror}") from None


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/health", "/healthz") else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not worth a line."""
