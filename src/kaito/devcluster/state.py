"""What a running local cluster leaves in its folder, so that other commands find it: kubeconfig, process, addresses, log."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

CLOUD_TOKEN = "local-cluster"
"""Bearer token of the emulated Azure API; it guards nothing."""


class Running(msgspec.Struct, frozen=True):
    """A local cluster that has come up."""

    pid: int
    server: str
    """URL of the API server."""
    cloud: str
    """URL of the emulated Azure Resource Manager."""
    started: str
    """RFC 3339."""


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The files of one local cluster."""

    path: Path

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.path / "cluster.log"

    @property
    def operator_log(self) -> Path:
        return self.path / "operator.log"

    @property
    def operator_pid(self) -> Path:
        """Names the process of an operator that runs beside the cluster and ends with it."""
        return self.path / "operator.pid"

    @property
    def service_account(self) -> Path:
        """The folder that an operator beside the cluster sees as its mounted service account."""
        return self.path / "serviceaccount"

    @property
    def kubectl_cache(self) -> Path:
        """What kubectl has learnt of this cluster, kept apart from what it knows of others."""
        return self.path / "kubectl-cache"

    @property
    def _running(self) -> Path:
        return self.path / "cluster.json"

    @staticmethod
    def default() -> StateFolder:
        """``$XDG_STATE_HOME/kaito/dev``, by default in ``~/.local/state``."""
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return StateFolder(Path(base) / "kaito" / "dev")

    def create(self) -> None:
        """Make the folder, readable by its owner alone."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def running(self) -> Running | None:
        """The cluster that runs here; None if none does, whatever files an earlier one may have left."""
        try:
            running = msgspec.json.decode(self._running.read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return running if alive(running.pid) else None

    def announce(self, running: Running) -> None:
        """Say that the cluster is up; the last thing that coming up does."""
        staged = self._running.with_suffix(".tmp")
        staged.write_bytes(msgspec.json.encode(running))
        staged.replace(self._running)

    def write_kubeconfig(self, text: str) -> None:
        descriptor = os.open(self.kubeconfig, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)

    def clear(self) -> None:
        """Remove what ``announce`` and ``write_kubeconfig`` wrote; the log stays."""
        self._running.unlink(missing_ok=True)
        self.kubeconfig.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything a cluster leaves, and the folder if nothing else is in it."""
        self.clear()
        for file in (self.log, self.operator_log, self.operator_pid):
            file.unlink(missing_ok=True)
        for folder in (self.service_account, self.kubectl_cache):
            shutil.rmtree(folder, ignore_errors=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie answers signals although it has ended; its parent has only not noticed yet.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
