"""The operator as a process of its own beside a local cluster, with the identity and the cloud it would have in a pod."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from kaito.devcluster.state import CLOUD_TOKEN, Running, StateFolder

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
RESOURCE_GROUP = "local"
CLUSTER_NAME = "kaito"
LOCATION = "local"


def mount_service_account(directory: Path, folder: StateFolder, token: str, namespace: str) -> None:
    """Write what a kubelet mounts into every pod: ``token``, ``ca.crt`` and ``namespace``."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    config = yaml.safe_load(folder.kubeconfig.read_text())
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    (directory / "ca.crt").write_bytes(authority)
    (directory / "namespace").write_text(namespace)
    descriptor = os.open(directory / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)


def pod_environment(running: Running, service_account: Path) -> dict[str, str]:
    """The environment that leads the operator to the local cluster's API server and cloud, as a pod's would."""
    server = urlsplit(running.server)
    return {
        "PATH": os.environ.get("PATH", ""),
        "KUBERNETES_SERVICE_HOST": server.hostname or "",
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "KUBERNETES_SERVICE_ACCOUNT_DIR": str(service_account),
        "AZURE_RESOURCE_MANAGER_ENDPOINT": running.cloud,
        "ARM_EMULATOR_TOKEN": CLOUD_TOKEN,
        "ARM_SUBSCRIPTION_ID": SUBSCRIPTION,
        "ARM_RESOURCE_GROUP": RESOURCE_GROUP,
        "AZURE_CLUSTER_NAME": CLUSTER_NAME,
        "KAITO_POLL_INTERVAL_SECONDS": "0.5",
    }


def launch(arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``kaito manager`` with ``arguments``; its output goes to ``log``. The caller ends it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "kaito", "manager", *arguments],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
