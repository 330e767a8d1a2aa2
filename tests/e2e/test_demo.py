"""``make demo`` as a stranger runs it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaito.devcluster.kubelet.host.programs import serving_engine
from kaito.devcluster.process import stop
from kaito.devcluster.state import StateFolder, alive
from support.cluster import until

ROOT = Path(__file__).resolve().parents[2]


def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kaito", "demo", *arguments],
        cwd=ROOT,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def processes(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\bprocess (\d+)", text)]


def test_the_demo_ends_with_a_ready_workspace_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout[done.stdout.index("$ kubectl get workspace") :].splitlines()
    assert table[1].split() == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    assert table[2].split()[:5] == ["workspace-phi-3-mini", "Standard_NC6s_v3", "True", "True", "True"]
    assert "Simulated: Azure" in done.stdout
    if serving_engine():
        assert "stands in for it here" in done.stdout
        assert '{"Result":"The capital of France is Paris."}' in done.stdout
        assert "The capital of France is Paris." in done.stdout.splitlines()
    else:
        assert "No model was loaded" in done.stdout
    assert "make demo KEEP=1" in done.stdout
    assert processes(done.stdout)
    assert not [number for number in processes(done.stdout) if alive(number)]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_a_demo_that_is_kept_says_how_to_use_and_end_it(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state" / "kaito" / "demo")
    try:
        done = demo(tmp_path, "--keep")
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = re.findall(r"export KUBECONFIG=(\S+)", done.stdout)
        running = folder.running()
        assert running is not None
        ready = subprocess.run(
            [
                "kubectl",
                "get",
                "workspace",
                "workspace-phi-3-mini",
                "-o",
                "jsonpath={.status.conditions[?(@.type=='WorkspaceSucceeded')].status}",
            ],
            env={
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "KUBECONFIG": line,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert ready.stdout == "True"
        operators = processes(done.stdout)
        assert all(alive(number) for number in operators)
    finally:
        stop(folder)
    assert not alive(running.pid)
    assert not [number for number in operators if alive(number)]
    assert not folder.path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found.append(path.read_text(errors="replace"))
        return [line for line in found if str(tmp_path) in line]

    with subprocess.Popen(
        [sys.executable, "-m", "kaito", "demo"], cwd=ROOT, env=environ(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not (found := re.search(r"the operator runs as process (\d+)", line := process.stdout.readline())):
            assert line, "the demo has ended"
        assert left()
        process.send_signal(number)
        process.stdout.close()
    until(lambda: not alive(int(found[1])) and not left(), "everything has ended")
    if number is signal.SIGKILL:
        tidy = "from kaito.scratch import Scratch; Scratch('demo').remove()"
        subprocess.run([sys.executable, "-c", tidy], env=environ(tmp_path), check=True)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_outside_a_checkout_it_says_what_is_missing(tmp_path: Path) -> None:
    done = demo(tmp_path, "--manifests", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "run this in a checkout of kaito" in done.stderr
