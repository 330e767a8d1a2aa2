"""SIGTERM and SIGINT for programs whose main thread may be busy: importing, in native code, or serving."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, final

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@final
class Termination:
    """The first signal asks the program to end, for which it has a time; the second, or the end of that time, ends it.

    Signals are noticed by a thread of their own. Until :meth:`ask` says how the program wants to be asked there is nothing to
    finish, and the first signal ends it with ``status``. To be made in the main thread, before anything that takes long: the
    first process of a container gets no signal that nobody handles.
    """

    __slots__ = ("_how", "_seconds", "_signals", "_status", "asked")

    def __init__(self, status: int) -> None:
        self.asked = False
        self._how: Callable[[], object] | None = None
        self._seconds = 0.0
        self._status = status
        self._signals, written = os.pipe()
        os.set_blocking(written, False)
        for number in _SIGNALS:
            signal.signal(number, _handled)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def ask(self, how: Callable[[], object], within: float) -> None:
        """From now on the first signal calls ``how``, in another thread; ``within`` seconds later the program is ended."""
        self._seconds, self._how = within, how

    def interrupt(self, within: float) -> None:
        """From now on the first signal raises SystemExit in the main thread as soon as that runs Python code."""

        def end(number: int, frame: FrameType | None) -> None:
            sys.exit(self._status)

        self.ask(lambda: None, within)
        for number in _SIGNALS:
            signal.signal(number, end)

    def nothing_to_finish(self) -> None:
        """From now on, as in the beginning, the first signal ends the program. One that was asked before ends here."""
        self._how = None
        if self.asked:
            leave(self._status)

    def _watch(self) -> None:
        os.read(self._signals, 1)
        self.asked = True
        if (how := self._how) is not None:
            how()
            select.select([self._signals], [], [], self._seconds)
        leave(self._status)


def leave(status: int) -> NoReturn:
    """End the process as it is: no thread is waited for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _handled(number: int, frame: FrameType | None) -> None:
    """Nothing: that there is a handler makes the signal arrive where it is watched for."""
