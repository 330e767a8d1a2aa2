"""A process asks for huge pages once, and stays what it was otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kaito.inference.hugepages import ask_for_huge_pages

PROGRAM = """
import json, os, sys
from kaito.inference.hugepages import ask_for_huge_pages
print(os.getpid(), flush=True)
ask_for_huge_pages(os.environ)
print(json.dumps([os.getpid(), sys.argv[1:], os.environ["GLIBC_TUNABLES"], os.environ["KEPT"]]))
"""


def run(**environ: str) -> list[str]:
    given = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", PROGRAM, "--flag=a b", "c"]
    done = subprocess.run(command, env=given | {"KEPT": "x"} | environ, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux'")
def test_the_process_becomes_itself_with_the_allocator_told() -> None:
    first, again, said = run()
    assert first == again
    assert json.loads(said) == [int(first), ["--flag=a b", "c"], "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1", "x"]


def test_what_is_set_is_left_as_it_is() -> None:
    first, said = run(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert json.loads(said) == [int(first), ["--flag=a b", "c"], "glibc.malloc.check=0", "x"]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    ask_for_huge_pages({})
