"""The guides, each command as printed, on the local cluster. What needs Azure or a model says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaito.devcluster.kubelet.host.programs import serving_engine
from support.cluster import DevCluster, dev_cluster
from support.kubectl import Kubectl, installed

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```sh( azure| model)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(guide: Path, *, model: bool = False) -> list[str]:
    """The commands that need no Azure, and no model unless there is one."""
    return [body for mark, body in BLOCK.findall(guide.read_text()) if not mark or (model and mark == " model")]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A cluster for the guides alone, some of which install things, with a running operator."""
    scratch = tmp_path_factory.mktemp("guides")
    with dev_cluster(scratch) as cluster:
        cluster.install(ROOT / "config" / "overlays" / "local")
        with cluster.operator(scratch) as operator:
            operator.wait_ready()
            yield cluster


def follow(guide: Path, cluster: DevCluster, folder: Path, *, model: bool = False) -> str:
    """Do what the guide says, in a namespace of its name; what that prints."""
    kubeconfig = folder / "kubeconfig"
    shutil.copy(cluster.kubeconfig, kubeconfig)
    kubectl = Kubectl(installed()["newest"], kubeconfig, folder)
    kubectl("create", "namespace", guide.stem)
    kubectl("config", "set-context", "--current", f"--namespace={guide.stem}")
    path = os.pathsep.join((str(Path(kubectl.binary).parent), str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks(guide, model=model))],
        cwd=ROOT, env={**kubectl.env(), "PATH": path}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_works_as_it_is_printed(guide: Path, readers: DevCluster, tmp_path: Path) -> None:
    follow(guide, readers, tmp_path)


@pytest.mark.models
@pytest.mark.skipif(not serving_engine(), reason="no model can be served: make test-models")
def test_what_a_guide_says_to_a_model_is_answered(tmp_path: Path) -> None:
    with dev_cluster(tmp_path, flags=()) as cluster:
        cluster.install(ROOT / "config" / "overlays" / "local")
        with cluster.operator(tmp_path) as operator:
            operator.wait_ready()
            said = {
                guide.stem: follow(guide, cluster, tmp_path, model=True)
                for guide in GUIDES
                if len(blocks(guide, model=True)) > len(blocks(guide))
            }
    assert "Paris" in said["first-model"]
    assert '"Result"' in said["first-model"]
    assert said.keys() == {"first-model"}


def test_every_command_is_run_or_says_what_it_needs() -> None:
    for guide in GUIDES:
        text = guide.read_text()
        fences = re.findall(r"^```(.*)$", text, re.MULTILINE)[::2]
        assert set(fences) <= {"sh", "sh azure", "sh model", "yaml", "python"}, guide
        assert blocks(guide), guide
        for name in re.findall(r"\]\(([^)#]+)", text):
            assert (guide.parent / name).exists(), f"{guide.name}: {name}"
