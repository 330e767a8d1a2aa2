"""Reasons to reconcile that are not events of a watched resource: something the program was told, saw or waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, final

from kaito.runtime.control.workqueue import LOW_PRIORITY
from kaito.runtime.errors import ConfigError
from kaito.runtime.log import get_logger
from kaito.runtime.objects.resource import Key
from kaito.runtime.tasks import asked_to_end

T = TypeVar("T")

SINGLETON = Key("", "singleton")
"""The only key of a controller that looks after one thing rather than after objects."""

_log = get_logger("source")


class Enqueue(Protocol):
    def __call__(self, key: Key, *, priority: int = 0) -> None: ...


class Source(Protocol):
    """Declared in ``Controller(sources=…)``; run by one controller."""

    async def run(self, enqueue: Enqueue) -> None:
        """Name the keys to reconcile until cancelled, or until there will be no more. An error ends the manager."""
        ...


@final
class Channel(Generic[T]):
    """Events that the program itself brings about, such as messages it receives.

    What is sent before the controller runs is kept for it. ``send`` is for the event loop's thread; from another one use
    ``loop.call_soon_threadsafe(channel.send, event)``.
    """

    def __init__(self, to: Callable[[T], Iterable[Key]]) -> None:
        """``to`` gives the keys that an event concerns."""
        self._to = to
        self._kept: dict[Key, int] = {}
        self._enqueue: Enqueue | None = None
        self._closed = asyncio.Event()

    def send(self, event: T, *, priority: int = 0) -> None:
        """Reconcile what ``event`` concerns. Never blocks. Raises RuntimeError once closed, and what ``to`` raises."""
        if self._closed.is_set():
            raise RuntimeError("the channel is closed")
        for key in self._to(event):
            if self._enqueue is not None:
                self._enqueue(key, priority=priority)
            else:
                self._kept[key] = max(priority, self._kept.get(key, priority))

    def close(self) -> None:
        """There will be no more events; what was sent is still reconciled. Idempotent."""
        self._closed.set()

    async def run(self, enqueue: Enqueue) -> None:
        if self._enqueue is not None:
            raise ConfigError("a channel feeds one controller: give each its own and send to both")
        self._enqueue = enqueue
        try:
            for key, priority in self._kept.items():
                enqueue(key, priority=priority)
            self._kept.clear()
            await self._closed.wait()
        finally:
            self._enqueue = None


@final
@dataclass(frozen=True)
class Poll(Generic[T]):
    """A system without a watch, such as a cloud: listed regularly, and what differs from last time is reconciled."""

    every: float
    """Seconds from the end of one list to the next."""
    items: Callable[[], Awaitable[Iterable[T]]]
    """Everything there is, now."""
    key: Callable[[T], Iterable[Key]]
    """The keys that an item concerns."""
    name: str = "poll"
    """For the log."""

    def __post_init__(self) -> None:
        _check_period(self.every)

    async def run(self, enqueue: Enqueue) -> None:
        """Items are compared with ``==``; the order of the list does not matter. A list that fails is logged, and what was
        known stays known."""
        known: dict[Key, list[T]] | None = None
        while True:
            try:
                listed = self._by_key(await self.items())
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and asked_to_end():
                    raise
                # Whatever a foreign system's client raises, or has cancelled within: the next list may succeed.
                _log.warning("a poll failed", source=self.name, error=f"{type(error).__name__}: {error}")
            else:
                for key in changed(known or {}, listed):
                    enqueue(key, priority=LOW_PRIORITY if known is None else 0)
                known = listed
            await asyncio.sleep(self.every)

    def _by_key(self, items: Iterable[T]) -> dict[Key, list[T]]:
        found: dict[Key, list[T]] = {}
        for item in items:
            for key in self.key(item):
                found.setdefault(key, []).append(item)
        return found


@final
@dataclass(frozen=True)
class Timer:
    """One key, at once and then again and again: with ``Controller(primary=None)``, work that concerns no object."""

    every: float
    """Seconds."""
    key: Key = SINGLETON

    def __post_init__(self) -> None:
        _check_period(self.every)

    async def run(self, enqueue: Enqueue) -> None:
        while True:
            enqueue(self.key)
            await asyncio.sleep(self.every)


def changed(old: dict[Key, list[T]], new: dict[Key, list[T]]) -> list[Key]:
    """Keys whose items came, went or differ."""
    return [key for key in {**old, **new} if not _same(old.get(key, []), new.get(key, []))]


def _same(one: list[T], other: list[T]) -> bool:
    left = list(other)
    for item in one:
        if item not in left:
            return False
        left.remove(item)
    return not left


def _check_period(every: float) -> None:
    if every <= 0:
        raise ConfigError(f"a period of {every:g} s is not possible: it must be more than 0")
