"""Directories of processes that were killed are removed, those of processes that live are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kaito.scratch import Scratch

OWNER = "from kaito.scratch import Scratch; import os, sys; print(Scratch('test').path, flush=True); "
WAITING = OWNER + "sys.stdin.read()"
ANOTHER = OWNER + "os.execlp('cat', 'cat')"
"""It becomes another program, as the launcher of vLLM does."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("program", [WAITING, ANOTHER], ids=["waiting", "another"])
def test_what_a_killed_process_has_left_is_removed_by_the_next_one(place: Path, program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place)},
    ) as owner:
        assert owner.stdout
        left = Path(owner.stdout.readline().strip())
        (left / "copy").mkdir()
        (left / "copy" / "weights").write_bytes(b"x")
        with Scratch("test") as own:
            assert left.exists()
            assert own != left
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            with Scratch("test") as other:
                assert not left.exists()
                assert own.exists()
                assert other.exists()
    assert list(place.iterdir()) == []


def test_only_directories_of_the_same_kind_are_removed(place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    for kept in ("kaito-scratch-other-1", "kaito-scratch-tests"):
        (place / kept).mkdir()
    (place / "kaito-scratch-test-link").symlink_to(elsewhere)
    (place / "kaito-scratch-test-file").write_text("x")
    (place / "kaito-scratch-test-1").mkdir()
    Scratch("test").remove()
    assert {path.name for path in place.iterdir()} == {
        "elsewhere", "kaito-scratch-other-1", "kaito-scratch-tests", "kaito-scratch-test-link", "kaito-scratch-test-file",
    }  # fmt: skip
