"""The memory of a process that runs nothing but a manager: less of the kernel's and the collector's work for the same bytes.

CPython and glibc are tuned for programs that they know nothing about. This one reads tens of megabytes through buffers of
a quarter of a megabyte when it starts, keeps most of them as objects, and lives for months.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""From ``malloc.h`` of glibc."""
_MMAP_THRESHOLD = 1 << 20
_TRIM_THRESHOLD = 4 << 20


@contextmanager
def loading() -> Iterator[None]:
    """Within, a process loads what it will keep.

    Memory that was freed stays at hand up to 4 MiB, here and later: the default gives each buffer that a socket is read into
    back to the kernel, which clears its pages for the next one.

    Nothing is collected within, and all later collections leave out what is there at the end: a full collection looks at
    every object in one piece, and with the programs and some ten thousand objects that a manager has loaded it holds the
    event loop for a tenth of a second and more, whenever it happens to come.
    """
    _keep_buffers()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def _keep_buffers() -> None:
    """Where malloc is not glibc's there is nothing to set."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        set_option(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
