"""Waiting for something to become true, with a deadline and without guessing how long it takes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds; far beyond what anything here takes, so that only a real hang reaches it."""

BOOKMARKS = 90.0
"""Seconds in which a real API server, which sends a bookmark about once a minute, has sent one."""


async def eventually(probe: Callable[[], T | Awaitable[T]], *, deadline: float = DEADLINE) -> T:
    """The first true value of ``probe``. An AssertionError of the probe counts as not yet; the last one is raised in the end."""
    last: AssertionError | None = None
    try:
        async with asyncio.timeout(deadline):
            while True:
                try:
                    outcome = probe()
                    value: T = await outcome if inspect.isawaitable(outcome) else outcome
                    if value:
                        return value
                except AssertionError as error:
                    last = error
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise last or AssertionError(f"did not happen within {deadline:g} s") from None
