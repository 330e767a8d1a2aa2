"""Weights in huge pages: each token takes reading all of them, and with small pages much of that is looking up addresses."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_TUNABLES = "GLIBC_TUNABLES"
_ASKING = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"


def ask_for_huge_pages(environ: Mapping[str, str]) -> None:
    """Become this program once more, with an allocator that asks for them: glibc is only told when a process starts.

    It asks for its main arena and for large pieces only, so that there is one arena for all threads. Where the variable is set
    it is left as it is; another allocator than glibc's does not read it.
    """
    if sys.platform == "linux" and _TUNABLES not in environ:
        os.execve(sys.executable, sys.orig_argv, {**environ, _TUNABLES: _ASKING})
