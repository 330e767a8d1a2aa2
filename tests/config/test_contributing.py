"""CONTRIBUTING.md, done as it says: a model, a size, a cloud, a controller."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hack.release import FILES
from hack.version import current

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(kind: str) -> list[tuple[str, str, str]]:
    """(file, below which line, text) of what is to be written."""
    return re.findall(rf"^```{kind} (\S+)(?: (\S+))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def python(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_and_a_size(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name, below, text in blocks("yaml"):
        file = tmp_path / name
        before = file.read_text()
        assert before.count(f"\n{below}\n") == 1
        file.write_text(before.replace(f"\n{below}\n", f"\n{below}\n{text}"))
    assert "rocket-1b" in python(tmp_path / "src", "-m", "kaito", "models")
    assert re.search(r"Standard_NX8_v9 +1 +X9 +80Gi", python(tmp_path / "src", "-m", "kaito", "skus"))


@pytest.mark.parametrize(
    ("group", "program"),
    [
        (
            "kaito.providers",
            "from kaito.provisioner import load_provider; print(load_provider('nothing', {}).name)",
        ),
        (
            "kaito.controllers",
            (
                "from kaito.runtime import load_controllers; added = []\n"
                "class Manager:\n    def add(self, controller): print(controller.name)\n"
                "load_controllers(['look'])[0](Manager(), {})"
            ),
        ),
    ],
)
def test_a_cloud_and_a_controller(group: str, program: str, tmp_path: Path) -> None:
    for name, _, text in blocks("python"):
        (tmp_path / name).write_text(text)
    ((entry,),) = [re.findall(r"^(\w+ = .*)$", text, re.MULTILINE) for _, _, text in blocks("toml") if group in text]
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    assert python(tmp_path, "-c", program).strip() == entry.partition(" ")[0]


def test_nothing_else_names_the_version() -> None:
    """So that a release forgets nothing."""
    version = current()
    for folder in ("config", "docs", "docker", ".github"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".yaml", ".md", "") and "locks" not in path.parts:
                named = re.search(rf"kaito-[a-z{{}}-]+:{re.escape(version)}", path.read_text(errors="replace"))
                assert named is None or str(path.relative_to(ROOT)) in FILES, path


def test_ci_runs_what_a_contributor_runs() -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"):
        assert yaml.safe_load(form.read_text())["body"]
