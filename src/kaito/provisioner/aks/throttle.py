"""The pauses that Azure asks for: nobody asks before they are over."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from kaito.provisioner.errors import Throttled

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAUSE = 300.0
"""Seconds; a longer Retry-After is not believed."""


@final
class Throttle:
    """One for each kind of request: Azure counts reads and writes apart."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` is monotonic, in seconds."""
        self._clock = clock
        self._until = 0.0
        self._words = ""
        self._code = ""

    def check(self) -> None:
        """Raises Throttled, in the words of the answer that asked for the pause, for as long as it lasts."""
        left = self._until - self._clock()
        if left > 0:
            raise Throttled(self._words, code=self._code, retry_after=left)

    def note(self, error: Throttled) -> Throttled:
        """Begin the pause that an answer asks for; the error with a pause that is bounded."""
        if error.retry_after is None:
            return error
        pause = min(error.retry_after, MAX_PAUSE)
        self._until = max(self._until, self._clock() + pause)
        self._words, self._code = error.message, error.code
        return Throttled(error.message, code=error.code, retry_after=pause)
