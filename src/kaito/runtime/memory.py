"""The memory of a process that runs nothing but a manager: less of the kernel's and the collector's work for the same bytes.

CPython and glibc are tuned for programs that they know nothing about. This one reads tens of megabytes through buffers of
a quarter of a megabyte when it starts, keeps most of them as objects, and lives for months.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""From ``malloc.h`` of glibc."""
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
_MMAP_THRESHOLD = 1 << 20
_TRIM_THRESHOLD = 4 << 20
_TOP_PAD = 128 << 10
"""glibc's own."""
_ROOM = 128 << 20
"""Bytes by which the heap grows in one go for what will be loaded; none of them is used before it is needed."""


@contextmanager
def loading() -> Iterator[None]:
    """Within, a process loads what it will keep.

    Memory that was freed stays at hand, up to 4 MiB of it later: the default gives each buffer that a socket is read into
    back to the kernel, which clears its pages for the next one. What is kept comes in pages of 2 MiB where the kernel has
    them, so that it takes a fault for each of these and not one for every 4 KiB.

    Nothing is collected within, and all later collections leave out what is there at the end: a full collection looks at
    every object in one piece, and with the programs and some ten thousand objects that a manager has loaded it holds the
    event loop for a tenth of a second and more, whenever it happens to come.
    """
    libc = ctypes.CDLL(None)
    # Where malloc is not glibc's there is nothing to set.
    malloc = libc if hasattr(libc, "mallopt") else None
    if malloc is not None:
        _make_room(malloc)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if malloc is not None:
            malloc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        gc.freeze()
        if collecting:
            gc.enable()


def _make_room(libc: ctypes.CDLL) -> None:
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * _ROOM)
    libc.mallopt(_M_TOP_PAD, _ROOM)
    start = libc.sbrk(0)
    libc.free(libc.malloc(_MMAP_THRESHOLD - 4096))
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)
    start += -start % _HUGE_PAGE
    # Refused by a kernel without such pages, which is as well.
    libc.madvise(start, max(0, libc.sbrk(0) - start), _MADV_HUGEPAGE)
