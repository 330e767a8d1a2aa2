"""A pipeline that is stepped in a thread of its own, for sequences that come from the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Generic, Protocol, TypeVar, final

from kaito.inference.errors import EngineFault, RequestError, stopping
from kaito.inference.protocol import Step

log = logging.getLogger(__name__)
Request = TypeVar("Request", contravariant=True)

_PACE = 0.03
"""Seconds between two deliveries, where nothing ends: a small model makes tokens so fast that waking the event loop for each
slows it down."""
_LONGEST = 1.0
"""Seconds for which an end waits for a step: one with a long prompt may take minutes."""


class Stepped(Protocol[Request]):
    """A batch of sequences. Every method is called in the stepper's thread; keys are the caller's."""

    def add(self, key: int, request: Request) -> None:
        """Take a sequence into the batch; raises RequestError for one that cannot be generated."""

    def remove(self, key: int) -> None:
        """Take a sequence out that nobody waits for any more. A key that is not in the batch is no error."""

    def step(self) -> list[tuple[int, Step | RequestError]]:
        """Generate once for every sequence. One that has its finish or an error is out of the batch."""

    @property
    def empty(self) -> bool:
        """There is nothing to step for."""


@final
class Stepper(Generic[Request]):
    """Steps ``batch`` while there is something to generate. To be made on the event loop."""

    def __init__(self, batch: Stepped[Request], name: str) -> None:
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._new: list[tuple[int, Request]] = []
        self._gone: list[int] = []
        self._closing = False
        self._keys = 0
        self._queues: dict[int, asyncio.Queue[Step | RequestError]] = {}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return not self._queues

    async def generate(self, request: Request) -> AsyncGenerator[Step]:
        """The steps of ``request``; closing the generator takes it out of the batch before the next step."""
        self._keys += 1
        key = self._keys
        queue = self._queues[key] = asyncio.Queue()
        complete = False
        try:
            with self._changed:
                if self._closing:
                    raise stopping()
                self._new.append((key, request))
                self._changed.notify()
            while not complete:
                step = await queue.get()
                complete = isinstance(step, RequestError) or step.finish is not None
                if isinstance(step, RequestError):
                    raise step
                yield step
        finally:
            del self._queues[key]
            if not complete:
                with self._changed:
                    self._gone.append(key)
                    self._changed.notify()

    async def aclose(self) -> None:
        """End the thread after the step that is going on, and do not wait for a long one; sequences that are not finished
        get Unavailable."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, _LONGEST)
        self._deliver([(key, stopping()) for key in self._queues])

    def _run(self) -> None:
        steps: list[tuple[int, Step | RequestError]] = []
        delivered = 0.0
        while True:
            with self._changed:
                while not (self._closing or self._new or self._gone or not self._batch.empty):
                    self._changed.wait()
                if self._closing:
                    return
                new, self._new = self._new, []
                gone, self._gone = set(self._gone), []
            for key, request in new:
                if key not in gone:
                    steps += self._added(key, request)
            for key in gone:
                self._batch.remove(key)
            try:
                if not self._batch.empty:
                    steps += self._batch.step()
            except Exception:
                log.exception("a step failed")
                steps += self._abandoned()
            if not steps or (monotonic() - delivered < _PACE and not any(_ends(step) for _, step in steps)):
                continue
            with self._changed:
                if not self._closing:
                    self._loop.call_soon_threadsafe(self._deliver, steps)
            steps, delivered = [], monotonic()

    def _added(self, key: int, request: Request) -> list[tuple[int, Step | RequestError]]:
        try:
            self._batch.add(key, request)
        except RequestError as error:
            return [(key, error)]
        except Exception:
            log.exception("a sequence could not be added")
            return [(key, EngineFault("The generation failed; the server's log has the reason."))]
        return []

    def _abandoned(self) -> list[tuple[int, Step | RequestError]]:
        keys = list(self._queues)
        for key in keys:
            self._batch.remove(key)
        return [(key, EngineFault("The generation failed; the server's log has the reason.")) for key in keys]

    def _deliver(self, steps: list[tuple[int, Step | RequestError]]) -> None:
        for key, step in steps:
            if queue := self._queues.get(key):
                queue.put_nowait(step)


def _ends(step: Step | RequestError) -> bool:
    return isinstance(step, RequestError) or step.finish is not None
