"""What a process of a manager's own does about its memory."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kaito.runtime.memory import loading


def test_what_a_start_has_loaded_is_left_out_of_collections() -> None:
    frozen, collected = gc.get_freeze_count(), list[int]()
    gc.callbacks.append(lambda phase, info: collected.append(info["generation"]))
    try:
        with loading():
            loaded = [[number] for number in range(20_000)]
            assert collected == []
        assert gc.get_freeze_count() >= frozen + len(loaded)
        assert gc.isenabled()
    finally:
        gc.callbacks.pop()
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives such buffers back")
def test_buffers_that_come_and_go_are_not_cleared_by_the_kernel_each_time() -> None:
    """As asyncio reads: into a quarter of a megabyte, of which much is kept in pieces."""
    program = """
import resource
from kaito.runtime.memory import loading

with loading():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2000):
        first, second = bytearray(1 << 18), bytearray(1 << 18)
        del first, second
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert int(run.stdout) < 2000, "each of them has 64 pages"


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not HUGE.exists() or "[never]" in HUGE.read_text(), reason="this kernel has no large pages to give")
def test_what_is_kept_comes_in_large_pages() -> None:
    program = """
import resource
from pathlib import Path
from kaito.runtime.memory import loading

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = resident()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with loading():
    idle = resident() - before
    kept = [bytes(5000) for _ in range(10_000)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    full = resident() - before
print(idle, faults, full)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    idle, faults, full = map(int, run.stdout.split())
    assert idle < 4 << 20, "room costs nothing before it is used"
    assert faults < 4000, "50 MB are 12,000 small pages"
    assert full < 60_000_000
