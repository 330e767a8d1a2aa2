"""The API server that component tests run against.

By default the one of the local cluster, in the test's own event loop. ``KAITO_TEST_KUBECONFIG`` names any cluster instead;
``KUBEBUILDER_ASSETS`` a folder with ``etcd`` and ``kube-apiserver``, which are then started for the test run, as
controller-runtime's envtest does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaito.devcluster.apiserver import ApiServer
from kaito.runtime import Material, RestConfig, StaticToken, TlsConfig, load_config
from support.front import Front


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """An API server and its administrator."""

    config: RestConfig
    front: Front
    """Where ``config`` leads; it can misbehave for any API server behind it."""


def of_server(server: ApiServer, token: str = "") -> RestConfig:
    """How a client reaches an API server of the local cluster, as its administrator or with ``token``."""
    return RestConfig(
        server=server.url,
        credentials=StaticToken(token or server.admin_token),
        tls=TlsConfig(authority=Material(data=server.ca_pem)),
        user_agent="kaito-tests",
    )


@contextlib.contextmanager
def external() -> Iterator[RestConfig | None]:
    """The real API server that the environment names, None if it names none."""
    if kubeconfig := os.environ.get("KAITO_TEST_KUBECONFIG"):
        yield load_config(kubeconfig)
    elif assets := os.environ.get("KUBEBUILDER_ASSETS"):
        with envtest(Path(assets)) as config:
            yield config
    else:
        yield None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def envtest(assets: Path) -> Iterator[RestConfig]:
    """etcd and kube-apiserver from ``assets``, until the block ends. There are no controllers and no kubelet."""
    start_timeout = float(os.environ.get("KUBEBUILDER_CONTROLPLANE_START_TIMEOUT", "60").rstrip("s"))
    stop_timeout = float(os.environ.get("KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT", "20").rstrip("s"))
    output = None if os.environ.get("KUBEBUILDER_ATTACH_CONTROL_PLANE_OUTPUT") == "true" else subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="kaito-envtest-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        client, peer, port = _free_port(), _free_port(), _free_port()
        token = secrets.token_urlsafe(24)
        (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        key = folder / "service-accounts.pem"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        etcd = [
            str(assets / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        ]
        apiserver = [
            str(assets / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{client}",
            f"--cert-dir={folder / 'serving'}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--authorization-mode=RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
        ]
        for command in (etcd, apiserver):
            process = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(_stop, process, stop_timeout)
        url = f"https://127.0.0.1:{port}"
        _wait_ready(f"{url}/readyz", token, start_timeout)
        authority = Material(file=folder / "serving" / "apiserver.crt")
        yield RestConfig(
            server=url, credentials=StaticToken(token), tls=TlsConfig(authority=authority), user_agent="kaito-tests"
        )


def _stop(process: subprocess.Popen[bytes], timeout: float) -> None:
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(url: str, token: str, timeout: float) -> None:
    context = ssl._create_unverified_context()
    deadline = time.monotonic() + timeout
    while True:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, context=context, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} was not ready within {timeout:g} s")
        time.sleep(0.1)
