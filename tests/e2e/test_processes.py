"""Pods that are processes, with the real kubectl."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from support.cluster import DevCluster, dev_cluster, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods are processes on Linux")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster on which the commands of manifests run."""
    with dev_cluster(tmp_path_factory.mktemp("host"), flags=("--allow-host-commands",)) as cluster:
        yield cluster


@pytest.fixture
def site() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the site\n")

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_users_curl_in_a_pod(host: DevCluster, site: str) -> None:
    words = ("run", "-i", "--rm", "--restart=Never", "curl", "--image=curlimages/curl", "--", "-s", site)
    assert "from the site" in host.kubectl(*words)
    assert "NotFound" in host.kubectl.fails("get", "pod", "curl")


def test_what_is_typed_reaches_the_process_and_its_words_come_back(host: DevCluster) -> None:
    said = host.kubectl(
        "run", "-i", "--rm", "--restart=Never", "cat", "--image=any", "--command", "--", "cat", stdin="one\ntwo\n"
    )
    assert "one\ntwo\n" in said


def test_what_was_written_before_the_client_came_is_there_once(host: DevCluster) -> None:
    script = "echo early; cat; echo late"
    words = ("run", "-i", "--rm", "--restart=Never", "once", "--image=any", "--command", "--", "sh", "-c", script)
    said = host.kubectl(*words, stdin="typed\n")
    assert [said.count(word) for word in ("early\n", "typed\n", "late\n")] == [1, 1, 1], said


def test_a_terminal(host: DevCluster, tmp_path: Path) -> None:
    script = shutil.which("script")
    if script is None:
        pytest.skip("there is no script, which makes a terminal")
    shell = "test -t 0 && test -t 1 && echo terminal; sleep 0.3"
    words = ["run", "-it", "--rm", "--restart=Never", "tty", "--image=any", "--command", "--", "sh", "-c", f"'{shell}'"]
    done = subprocess.run(
        [script, "-qec", " ".join(host.kubectl.command(*words)), str(tmp_path / "typescript")],
        env=host.kubectl.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "terminal" in done.stdout, done.stdout + done.stderr


def test_logs_follow_and_remember(host: DevCluster) -> None:
    script = "echo attempt; [ -e /data/again ] && sleep 600; touch /data/again; exit 1"
    container = {
        "name": "main",
        "image": "any",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 0,
    }
    host.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twice"}, "spec": spec})
    until(
        lambda: host.kubectl.run("logs", "twice", "--previous").returncode == 0, "the container has been started again"
    )
    host.kubectl("wait", "--for=condition=Ready", "pod/twice", "--timeout=30s")
    assert host.kubectl("logs", "twice", "--previous", "--tail=1") == "attempt\n"
    assert host.kubectl("logs", "twice", "-c", "main", "--since=1h").endswith("attempt\n")
    with host.kubectl.start("logs", "twice", "--follow") as follower:
        assert follower.stdout is not None
        assert "command of the manifest" in follower.stdout.readline()
        host.kubectl("delete", "pod", "twice")
        assert follower.stdout.read() == "attempt\n"
        assert follower.wait(timeout=30) == 0


def test_exec_is_refused_with_words_and_simulated_pods_have_nothing_to_attach_to(host: DevCluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "nginx"}]},
    }
    host.kubectl.apply(pod)
    host.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=30s")
    assert "only plays its part" in host.kubectl.fails("attach", "web")
    assert "exec is not possible" in host.kubectl.fails("exec", "web", "--", "true")
    host.kubectl("delete", "pod", "web", "--wait=false")
