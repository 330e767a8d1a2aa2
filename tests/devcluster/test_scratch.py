"""Folders of killed processes go with the next one; those of living ones stay."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaito.devcluster.scratch import scratch

OWNER = (
    "from kaito.devcluster.scratch import scratch\nwith scratch('kaito-x-') as path: print(path, flush=True); input()"
)
HOLDER = "import sys; from pathlib import Path; from kaito.devcluster.scratch import hold\nhold(Path(sys.argv[1])); print('held', flush=True); input()"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@contextmanager
def running(program: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that waits for its end, and what it has said."""
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_folder_goes_with_its_block(temporary: Path) -> None:
    with scratch("kaito-x-") as folder:
        (folder / "file").write_text("")
        assert folder.parent == temporary
        assert folder.name.startswith("kaito-x-")
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_has_left_goes_when_nobody_needs_it(temporary: Path) -> None:
    with running(OWNER) as (owner, name), running(HOLDER, name) as (holder, said):
        left = Path(name)
        (left / "file").write_text("")
        assert said == "held"
        with scratch("kaito-x-"):
            assert left.is_dir(), "it has an owner"
        owner.kill()
        owner.wait()
        with scratch("kaito-x-"):
            assert left.is_dir(), "its child still needs it"
        holder.kill()
        holder.wait()
        with scratch("kaito-y-"):
            assert left.is_dir(), "it is of another kind"
        with scratch("kaito-x-"):
            assert not left.exists()
    assert list(temporary.iterdir()) == []


def test_folders_that_are_not_ours_stay(temporary: Path) -> None:
    elsewhere = temporary / "elsewhere"
    for folder in (elsewhere, temporary / "kaito-x-unlocked"):
        folder.mkdir()
    (elsewhere / ".lock").write_text("")
    (temporary / "kaito-x-link").symlink_to(elsewhere)
    before = sorted(temporary.rglob("*"))
    with scratch("kaito-x-"):
        pass
    assert sorted(temporary.rglob("*")) == before
