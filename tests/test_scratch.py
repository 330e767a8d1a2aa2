"""Directories of processes that were killed are removed, those of processes that live are not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaito.scratch import Scratch

OWNER = "from kaito.scratch import Scratch; import os, sys; print(Scratch('test').path, flush=True); "
WAITING = OWNER + "sys.stdin.read()"
HOLDER = "from kaito.scratch import hold; import pathlib, sys; hold(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
ANOTHER = OWNER + "os.execlp('cat', 'cat')"
"""It becomes another program, as the launcher of vLLM does."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def running(place: Path, program: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that waits, and what it has said."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environ = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("program", [WAITING, ANOTHER], ids=["waiting", "another"])
def test_what_a_killed_process_has_left_is_removed_by_the_next_one(place: Path, program: str) -> None:
    with running(place, program) as (owner, name):
        left = Path(name)
        (left / "copy").mkdir()
        (left / "copy" / "weights").write_bytes(b"x")
        with Scratch("test") as own:
            assert left.exists()
            assert own != left
            owner.kill()
            owner.wait()
            with Scratch("test") as other:
                assert not left.exists()
                assert own.exists()
                assert other.exists()
    assert list(place.iterdir()) == []


def test_what_another_process_holds_stays_when_its_owner_was_killed(place: Path) -> None:
    with running(place, WAITING) as (owner, name), running(place, HOLDER, name) as (holder, said):
        assert said == "held"
        owner.kill()
        owner.wait()
        Scratch("test").remove()
        assert Path(name).is_dir()
        holder.kill()
        holder.wait()
        Scratch("test").remove()
    assert list(place.iterdir()) == []


def test_one_that_was_removed_before_is_no_error(place: Path) -> None:
    with Scratch("test") as own:
        own.rmdir()
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
