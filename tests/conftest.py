"""What every test gets: a clean event loop, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio


def pytest_configure(config: pytest.Config) -> None:
    # Without a loop set, asking for the current one creates one that nobody closes.
    asyncio.set_event_loop(None)


@pytest_asyncio.fixture(autouse=True)
async def no_task_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """An async test ends with the tasks that it began with."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {[task.get_name() for task in left]}"


def _sockets() -> set[str]:
    links = set()
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            links.add(target)
    return links


@pytest.fixture(autouse=True)
def no_socket_or_thread_left_behind() -> Iterator[None]:
    """A test closes the sockets and ends the threads that it opened."""
    sockets, threads = _sockets(), set(threading.enumerate())
    yield
    if _sockets() - sockets:
        gc.collect()
    left = _sockets() - sockets
    assert not left, f"sockets left open: {sorted(left)}"
    for thread in set(threading.enumerate()) - threads:
        if not _pooled(thread):
            thread.join(timeout=5.0)
    alive = [thread for thread in set(threading.enumerate()) - threads if thread.is_alive() and not _pooled(thread)]
    assert not alive, f"threads left running: {[thread.name for thread in alive]}"


def _pooled(thread: threading.Thread) -> bool:
    """Threads of an event loop's executor, which asyncio ends with its loop."""
    return thread.name.startswith(("asyncio_", "ThreadPoolExecutor"))
