"""``kubectl kaito`` on the local cluster, as the person who runs models types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.cluster import Operator, dev_cluster, until
from support.kubectl import Kubectl, installed

SCRIPTS = Path(sys.executable).parent
SERVER = textwrap.dedent(
    """
    import http.server, json, os

    class Model(http.server.BaseHTTPRequestHandler):
        def answer(self, body, code=200):
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            found = {"/v1/models": {"data": [{"id": "small"}]}, "/progress": {"state": "completed", "step": 3, "steps": 3}}
            self.answer(json.dumps(found.get(self.path, {})).encode())

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            event = {"choices": [{"delta": {"content": asked[::-1]}}]}
            self.answer(f"data: {json.dumps(event)}\\n\\n".encode())

    print("listening", flush=True)
    http.server.ThreadingHTTPServer((os.environ["POD_IP"], 5000), Model).serve_forever()
    """
)


def plugin(kubectl: Kubectl, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """kubectl finds the plugin beside this Python, as a user's shell would."""
    environ = {**kubectl.env(), "PATH": os.pathsep.join((str(SCRIPTS), os.environ["PATH"]))}
    return subprocess.run(
        [kubectl.binary, "kaito", *words, "--namespace", kubectl.namespace],
        env=environ, input=stdin, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_model_is_deployed_and_followed(kubectl: Kubectl, operator: Operator) -> None:
    flags = ("--model", "phi-3-mini-4k-instruct", "--instance-type", "Standard_NC6s_v3", "--name", "phi")
    printed = plugin(kubectl, "deploy", *flags, "--dry-run")
    assert "name: phi-3-mini-4k-instruct" in printed.stdout, printed.stderr
    assert "NotFound" in kubectl.run("get", "workspace", "phi").stderr
    made = plugin(kubectl, "deploy", *flags)
    assert "workspace.kaito.sh/phi created" in made.stdout, made.stderr
    again = plugin(kubectl, "deploy", *flags)
    assert (again.returncode, "already" in again.stderr) == (1, True)

    until(lambda: json.loads(plugin(kubectl, "status", "phi", "-o", "json").stdout)["state"] == "Ready", "phi is Ready")
    shown = plugin(kubectl, "status", "phi").stdout
    for part in (
        "Workspace phi",
        "Machine ws",
        "AgentPool ws",
        "Node aks-",
        "Deployment phi",
        "Pod phi-",
        "Service phi",
    ):
        assert part in shown
    assert "Waiting" not in shown
    assert "simulated container" in plugin(kubectl, "logs", "phi").stdout
    refused = plugin(kubectl, "chat", "phi", "hello")
    assert (refused.returncode, "simulated" in refused.stderr) == (1, True)

    found = plugin(kubectl, "doctor", "-o", "json")
    verdicts = {(each["what"], each["level"]) for each in json.loads(found.stdout)}
    assert {
        ("cluster", "ok"),
        ("permissions", "ok"),
        ("kinds", "ok"),
        ("operator", "ok"),
        ("workspaces", "ok"),
    } <= verdicts
    kubectl("delete", "workspace", "phi", "--wait=true")
    gone = plugin(kubectl, "status", "phi")
    assert (gone.returncode, gone.stderr) == (1, 'error: workspaces.kaito.sh "phi" not found\n')


def test_a_watch_ends_with_its_workspace(kubectl: Kubectl, operator: Operator) -> None:
    flags = ("--model", "phi-2", "--instance-type", "Standard_NC6s_v3")
    assert plugin(kubectl, "deploy", *flags).returncode == 0
    environ = {**os.environ, "KUBECONFIG": str(kubectl.kubeconfig)}
    words = [str(SCRIPTS / "kubectl-kaito"), "status", "-w", "phi-2", "-o", "json", "-n", kubectl.namespace]
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        seen = []
        for line in watch.stdout:
            seen.append(json.loads(line)["state"])
            if seen[-1] == "Ready":
                break
        kubectl("delete", "workspace", "phi-2", "--wait=false")
        seen += [json.loads(line)["state"] for line in watch.stdout]
        assert watch.wait(60) == 0
    ready = seen.index("Ready")
    assert set(seen[:ready]) <= {"Waiting"}
    assert "Deleting" in seen[ready:]


@pytest.mark.skipif(sys.platform != "linux", reason="pods are processes on Linux only")
def test_a_conversation_through_a_port_forward(tmp_path: Path) -> None:
    with dev_cluster(tmp_path, flags=("--allow-host-commands",)) as cluster:
        kubectl = Kubectl(installed()["newest"], cluster.kubeconfig, tmp_path, "default")
        command = [sys.executable, "-c", SERVER]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "m", "labels": {"app": "m", "kaito.sh/workspace": "m"}},
            "spec": {
                "containers": [
                    {
                        "name": "m",
                        "image": "example.com/m",
                        "command": command,
                        "ports": [{"containerPort": 5000}],
                        "readinessProbe": {"httpGet": {"path": "/v1/models", "port": 5000}, "periodSeconds": 1},
                    }
                ]
            },
        }
        ports = [{"port": 80, "targetPort": 5000}]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "m"},
            "spec": {"selector": {"app": "m"}, "ports": ports},
        }
        kubectl("apply", "-f", "-", stdin=f"{json.dumps(pod)}\n---\n{json.dumps(service)}")
        kubectl("wait", "--for=condition=Ready", "pod/m", "--timeout=60s")
        said = plugin(kubectl, "chat", "m", "stressed")
        assert (said.stdout, said.stderr) == ("desserts\n", "")
        assert plugin(kubectl, "chat", "m", stdin="drawer").stdout == "reward\n"
        assert (
            "there is no adapter 'law'; there are: small"
            in plugin(kubectl, "chat", "m", "x", "--adapter", "law").stderr
        )
        progress = plugin(kubectl, "tune", "--progress", "m")
        assert "completed  [####################] 3/3" in progress.stdout, progress.stderr
        assert "listening" in plugin(kubectl, "logs", "m").stdout
        assert "cannot be reached" in plugin(kubectl, "chat", "nobody", "x").stderr


def test_completion_as_kubectl_asks_for_it() -> None:
    completer = shutil.which("kubectl_complete-kaito", path=str(SCRIPTS))
    assert completer is not None

    def complete(*words: str) -> list[str]:
        return subprocess.run([completer, *words], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")[
            :-1
        ]

    assert complete("sta") == ["status", ":4"]
    assert "manager" not in complete("")
    assert "--adapter" in complete("chat", "--ad")
