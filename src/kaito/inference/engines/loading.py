"""Work that takes long, in threads that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def detached(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What ``work`` returns or raises. A caller that is cancelled leaves it behind, and so does a process that ends.

    ``asyncio.to_thread`` is for work that its caller can wait for: its threads are joined at the end.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*arguments, **options))
        except BaseException as error:  # for the caller
            outcome.set_exception(error)

    outcome.set_running_or_notify_cancel()
    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(outcome)
