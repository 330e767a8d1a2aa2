"""A model on several nodes: the first pod leads a Ray cluster, the others work in it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn

from kaito.inference.errors import ModelError
from kaito.termination import Termination

log = logging.getLogger(__name__)

_DEADLINE = 1800
"""Seconds in which all nodes have to come; the operator's startup probe has run out by then."""
_ENDING = 25.0
"""Seconds that Ray has to end after SIGTERM."""
_WAIT = """\
import sys, time, ray
ray.init(address="auto", logging_level="ERROR")
end = time.monotonic() + float(sys.argv[2])
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    if time.monotonic() > end:
        sys.exit(1)
    time.sleep(1)
"""


def lead(head: Sequence[str], nodes: int, termination: Termination) -> None:
    """Start the cluster and wait for ``nodes`` nodes; raises ModelError. SIGTERM ends the wait, and the program."""
    if _call(head, termination):
        raise ModelError("the Ray cluster did not start; the lines above say why")
    log.info("waiting for %d nodes", nodes)
    if _call((sys.executable, "-c", _WAIT, str(nodes), str(_DEADLINE)), termination):
        raise ModelError(f"not all of {nodes} nodes came within {_DEADLINE} s")


def work(worker: Sequence[str], host: str, port: int, termination: Termination) -> NoReturn:
    """Run ``worker`` and answer the probes meanwhile; SIGTERM ends both, and the program. Raises ModelError where it ends."""
    health = ThreadingHTTPServer((host, port), _Health)
    threading.Thread(target=health.serve_forever, name="health", daemon=True).start()
    try:
        code = _call(worker, termination)
    finally:
        health.shutdown()
        health.server_close()
    raise ModelError(f"the Ray worker ended with {code}; the lines above say why")


def _call(command: Sequence[str], termination: Termination) -> int:
    """The exit status of ``command``, to which a signal is passed on."""
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise ModelError(f"{command[0]}: cannot be run: {error.strerror}") from None
    termination.ask(process.terminate, within=_ENDING)
    status = process.wait()
    termination.nothing_to_finish()
    return status


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/health", "/healthz") else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Probes are not worth a line."""
