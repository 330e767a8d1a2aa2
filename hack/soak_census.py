"""What a process holds: memory, sockets, tasks and timers; and whether that grows."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import statistics
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from pathlib import Path
from typing import NamedTuple, TypeVarTuple

import uvloop

Ts = TypeVarTuple("Ts")
_LIBC = ctypes.CDLL(None)

SLACK = 30
"""By how many tasks, sockets or timers may differ from one calm moment to another: each follower may or may not keep a
connection for its next list, which is four sockets between it and the server, and as many tasks."""
MEGABYTES_A_MINUTE = 0.5
SETTLING = 40.0
"""Seconds in which everything must be gone after the end. The loop gives a TLS connection that the other side left without
a goodbye 30 s for it."""


class Failed(Exception):
    """The soak has shown something that must not be."""


class CountingLoop(uvloop.Loop):
    """An event loop that can say how many timers wait to fire."""

    def __init__(self) -> None:
        super().__init__()
        self._handles: weakref.WeakSet[asyncio.TimerHandle] = weakref.WeakSet()

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """``call_at`` comes this way, too."""
        handle = super().call_later(delay, callback, *args, context=context)
        if hasattr(handle, "when"):  # without a delay it is no timer
            self._handles.add(handle)
        return handle

    def timers(self) -> list[asyncio.TimerHandle]:
        now = self.time()
        return [handle for handle in self._handles if not handle.cancelled() and handle.when() > now]


class Census(NamedTuple):
    tasks: int
    sockets: int
    timers: int
    megabytes: float

    @staticmethod
    def take() -> Census:
        gc.collect()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        return Census(len(asyncio.all_tasks()), _sockets(), len(loop.timers()), _resident())

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.sockets} sockets, {self.timers} timers, {self.megabytes:.1f} MB"


def _resident() -> float:
    """Resident memory in MB, without what glibc only keeps for later."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _sockets() -> int:
    links = []
    for entry in tuple(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


async def nothing_left(before: Census) -> None:
    """Raises Failed where more is held than ``before``, and goes on being held."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)
    deadline = loop.time() + SETTLING
    while True:
        now = Census.take()
        if now.tasks <= before.tasks and now.sockets <= before.sockets and now.timers <= before.timers:
            print(f"left at the end: {now}")
            return
        if loop.time() > deadline:
            for task in asyncio.all_tasks():
                print(f"  {task}")
            for handle in loop.timers():
                print(f"  {handle}")
            raise Failed(f"left behind: {now}; before: {before}")
        await asyncio.sleep(0.2)


def steady(samples: Sequence[tuple[float, Census]], *, judge_memory: bool) -> None:
    """Raises Failed where tasks, sockets, timers or memory grew from sample to sample; each has its second."""
    quarter = len(samples) // 4
    if not quarter:
        return
    for name in ("tasks", "sockets", "timers"):
        first, last = (
            statistics.median(getattr(census, name) for _, census in part)
            for part in (samples[:quarter], samples[-quarter:])
        )
        print(f"{name}: {first:g} in the first quarter, {last:g} in the last")
        if last > first + SLACK:
            raise Failed(f"{name} grow")
    settled = samples[len(samples) // 2 :]
    memory = [census.megabytes for _, census in settled]
    slope = statistics.linear_regression([second for second, _ in settled], memory).slope * 60
    print(f"memory: {memory[0]:.1f} -> {memory[-1]:.1f} MB in the second half, {slope:+.2f} MB a minute")
    if judge_memory and slope > MEGABYTES_A_MINUTE:
        raise Failed("memory grows")
