"""A pytest fixture over any API server: an embedded one, envtest's, or the cluster of a kubeconfig."""

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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from kaito.runtime.errors import ConfigError
from kaito.runtime.transport.config import Material, RestConfig, TlsConfig, load_config
from kaito.runtime.transport.credentials import StaticToken

KUBECONFIG = "TEST_KUBECONFIG"
ASSETS = "KUBEBUILDER_ASSETS"
"""The variable by which controller-runtime's envtest finds ``etcd`` and ``kube-apiserver``."""


@contextlib.contextmanager
def named_by_environment(kubeconfig_variable: str = KUBECONFIG) -> Iterator[RestConfig | None]:
    """The API server that the environment names, by a kubeconfig or by envtest's assets; None if it names none."""
    if kubeconfig := os.environ.get(kubeconfig_variable):
        yield load_config(kubeconfig)
    elif assets := os.environ.get(ASSETS):
        with envtest(Path(assets)) as config:
            yield config
    else:
        yield None


def api_server(
    embedded: Callable[[], AbstractAsyncContextManager[RestConfig]] | None = None,
    *,
    kubeconfig_variable: str = KUBECONFIG,
) -> Any:
    """A fixture that gives the RestConfig of an API server; assign it to its name in ``conftest.py``.

    That is the cluster of the kubeconfig which ``kubeconfig_variable`` names, else envtest from ``KUBEBUILDER_ASSETS``, both
    shared by a session's tests, else ``embedded()``, entered for each test in its own event loop. Without any of them the
    test is skipped. Needs pytest-asyncio.
    """
    import pytest
    import pytest_asyncio

    shared = contextlib.ExitStack()
    found: list[RestConfig | None] = []

    @pytest_asyncio.fixture
    async def server(request: pytest.FixtureRequest) -> AsyncIterator[RestConfig]:
        if not found:
            found.append(shared.enter_context(named_by_environment(kubeconfig_variable)))
            request.session.config.add_cleanup(shared.close)
        if (config := found[0]) is not None:
            yield config
        elif embedded is not None:
            async with embedded() as config:
                yield config
        else:
            pytest.skip(f"no API server: set {kubeconfig_variable} or {ASSETS}")

    return server


@contextlib.contextmanager
def envtest(assets: Path) -> Iterator[RestConfig]:
    """etcd and kube-apiserver from ``assets``, until the block ends. There are no controllers and no kubelet.

    Raises ConfigError where they are not there, TimeoutError where they do not become ready.
    """
    for program in ("etcd", "kube-apiserver"):
        if not (assets / program).is_file():
            raise ConfigError(f"{assets} has no {program}: {ASSETS} should name a folder of envtest's binaries")
    start_timeout = float(os.environ.get("KUBEBUILDER_CONTROLPLANE_START_TIMEOUT", "60").rstrip("s"))
    stop_timeout = float(os.environ.get("KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT", "20").rstrip("s"))
    output = None if os.environ.get("KUBEBUILDER_ATTACH_CONTROL_PLANE_OUTPUT") == "true" else subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="envtest-") as name, contextlib.ExitStack() as stack:
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
            server=url, credentials=StaticToken(token), tls=TlsConfig(authority=authority), user_agent="envtest"
        )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
