"""A local cluster and operators as processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaito.devcluster.operator import launch, mount_service_account, pod_environment
from kaito.devcluster.process import end, start, stop
from kaito.devcluster.state import Running, StateFolder, alive
from support.kubectl import Kubectl, installed

NAMESPACE = "kaito-system"
SERVICE_ACCOUNT = "kaito-controller-manager"


def until(condition: Callable[[], object], what: str, *, deadline: float = 30.0) -> None:
    """Wait for something outside this process."""
    ends = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {deadline:g} s"
        time.sleep(0.05)


@dataclass
class Operator:
    """One running ``kaito manager``."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def port(self, what: str) -> int:
        """The port on which it serves ``metrics`` or ``probes``, as it has logged."""
        found = re.search(rf'"{what}": (\d+)', self.text)
        return int(found[1]) if found else 0

    def get(self, what: str, path: str) -> tuple[int, str]:
        """Status and body of one of its own pages; status 0 while it does not serve."""
        port = self.port(what)
        if not port:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self) -> None:
        until(lambda: self.get("probes", "/readyz")[0] == 200 or self._ended(), "the operator is ready")

    def leads(self) -> bool:
        """Whether it holds its lease: a replica that only waits for it is ready, too."""
        _, text = self.get("metrics", "/metrics")
        return re.search(r'^leader_election_master_status\{name="[^"]*"\} 1\.0$', text, re.MULTILINE) is not None

    def _ended(self) -> bool:
        assert self.process.poll() is None, f"the operator ended with {self.process.returncode}:\n{self.text}"
        return False

    def resident_bytes(self) -> int:
        """Resident memory, as the kernel counts it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class DevCluster:
    folder: StateFolder
    running: Running
    scratch: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """The newest kubectl, as the administrator."""
        return Kubectl(installed()["newest"], self.kubeconfig, self.scratch / "home")

    def install(self, overlay: Path) -> None:
        self.kubectl("apply", "-k", str(overlay))

    @contextlib.contextmanager
    def operator(
        self,
        folder: Path,
        *,
        controllers: str = "workspace,machine",
        environ: Mapping[str, str] | None = None,
        name: str = "operator",
        flags: Sequence[str] = (),
    ) -> Iterator[Operator]:
        """An operator under its service account, with further ``flags``, killed when the block ends."""
        account = folder / f"{name}-serviceaccount"
        token = self.kubectl("create", "token", "-n", NAMESPACE, SERVICE_ACCOUNT, "--duration=1h").strip()
        mount_service_account(account, self.folder, token, NAMESPACE)
        log = folder / f"{name}.log"
        arguments = [
            f"--controllers={controllers}",
            "--leader-elect",
            "--metrics-bind-address=127.0.0.1:0",
            "--health-probe-bind-address=127.0.0.1:0",
            "--log-format=json",
            *flags,
        ]
        process = launch(arguments, {**pod_environment(self.running, account), **(environ or {})}, log)
        try:
            yield Operator(process, log)
        finally:
            end(process.pid)
            process.wait()


@contextlib.contextmanager
def dev_cluster(scratch: Path, flags: Sequence[str] = ("--pretend",)) -> Iterator[DevCluster]:
    """A local cluster of its own, gone with all its processes when the block ends. By default its pods play their part,
    whatever is installed."""
    folder = StateFolder(scratch / "state")
    running, process = start(folder, attached=True, flags=flags)
    try:
        yield DevCluster(folder, running, scratch)
    finally:
        stop(folder)
        process.communicate()
        assert not alive(running.pid)
