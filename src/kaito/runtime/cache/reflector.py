"""What an informer does next: list, stream a list, or watch; from which resource version; and after which delay.

``ReflectorMachine`` is pure: it is told what happened and answers with the next ``Step``. The informer carries the steps
out. Same rules as client-go's reflector:

* The first list asks for any version the server has at hand ("0"), a later one for at least the last version seen, so that
  it never goes back in time behind another API server. Where that version is no longer, or not yet, available the next
  list asks for the newest, once and at once.
* A streaming list is tried first. It ends with a bookmark and goes on as the watch. A server that refuses it as invalid
  is not asked again.
* A watch that ends, is throttled or loses its connection goes on from the last version without a new list.
* Failures back off from 0.8 s to 30 s, doubled and jittered, until two minutes passed without one.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import final

import msgspec

from kaito.runtime.backoff import REFLECTOR_BACKOFF, Backoff
from kaito.runtime.errors import (
    ApiError,
    BadRequest,
    Expired,
    Invalid,
    ServerTimeout,
    TooManyRequests,
    TransportError,
)
from kaito.runtime.objects.stored import revision
from kaito.runtime.transport.pager import PAGE_SIZE

SHORT_WATCH = 1.0
"""Seconds; a watch that ends sooner without an event counts as a failure."""


class StepKind(enum.StrEnum):
    LIST = "list"
    STREAM = "stream"
    """A watch that begins with the whole state and goes on as a watch."""
    WATCH = "watch"


class Step(msgspec.Struct, frozen=True):
    kind: StepKind
    resource_version: str
    limit: int = 0
    timeout: float = 0.0
    """Seconds that the server is asked to keep a watch open."""


class Timeout(TransportError):
    """The client gave up on a silent or overlong watch."""


@final
class ReflectorMachine:
    def __init__(self, *, streaming: bool = True, rng: Callable[[], float] = random.random) -> None:
        self.resource_version = ""
        """Where the next watch starts."""
        self._streaming = streaming
        self._listed = False
        self._unavailable = False
        self._paginated = False
        self._fallback = False
        self._rng = rng
        self._backoff = Backoff(REFLECTOR_BACKOFF, rng=rng)

    def next(self) -> Step:
        if self._listed:
            return Step(StepKind.WATCH, self.resource_version, timeout=self._watch_timeout())
        if self._streaming and not self._fallback:
            # A streaming list is always consistent, so it needs no version to start from.
            version = "" if self._unavailable else self.resource_version
            return Step(StepKind.STREAM, version, timeout=self._watch_timeout())
        version = "" if self._unavailable else self.resource_version or "0"
        # A limit together with a version bypasses the server's cache and goes to etcd.
        limit = PAGE_SIZE if version in ("", "0") or self._paginated else 0
        return Step(StepKind.LIST, version, limit=limit)

    def _watch_timeout(self) -> float:
        """Between five and ten minutes, so that the watches of many clients do not end together."""
        return 300.0 * (1.0 + self._rng())

    def listed(self, resource_version: str, *, paged: bool = False) -> None:
        """The list, or the initial part of a stream, is complete as of ``resource_version``."""
        if not self._unavailable and not self.resource_version and paged:
            self._paginated = True
        self._listed = True
        self._unavailable = False
        self._fallback = False
        self.resource_version = resource_version

    def seen(self, resource_version: str) -> None:
        """An event or bookmark of an established watch."""
        if resource_version:
            self.resource_version = resource_version

    def ended(self, step: Step, *, events: int, lasted: float, now: float) -> float:
        """The server closed the watch in an orderly way; seconds to wait before the next step."""
        if step.kind is StepKind.STREAM and not self._listed:
            # A server that does not finish what it began to stream may still answer a list.
            self._fallback = True
            return self._backoff.next(now)
        if events == 0:
            # Not even a bookmark: a watch from a version that a restored server has yet to reach is told nothing, and only
            # a list finds that out.
            self._listed = False
            return self._backoff.next(now) if lasted < SHORT_WATCH else 0.0
        return 0.0

    def failed(self, step: Step, error: Exception, *, lasted: float, now: float) -> float:
        """``step`` raised ``error`` after ``lasted`` seconds; seconds to wait before the next step."""
        if step.kind is StepKind.WATCH or self._listed:
            return self._watch_failed(error, lasted, now)
        if isinstance(error, Expired) or _too_large(error):
            first = not self._unavailable
            self._unavailable = True
            if first and step.resource_version:
                return 0.0
        elif streams_no_lists(step, error):
            self._streaming = False
            return 0.0
        elif (step.kind is StepKind.STREAM and not isinstance(error, TransportError | TooManyRequests)) or (
            step.kind is StepKind.STREAM and isinstance(error, Timeout)
        ):
            self._fallback = True
        else:
            # The next list after a round that fell back tries to stream again.
            self._fallback = False
        return max(self._backoff.next(now), _asked(error))

    def _watch_failed(self, error: Exception, lasted: float, now: float) -> float:
        if isinstance(error, Timeout):
            return 0.0
        if isinstance(error, TooManyRequests):
            return max(self._backoff.next(now), _asked(error))
        if isinstance(error, TransportError):
            return self._backoff.next(now)
        self._listed = False
        if isinstance(error, Expired) and lasted >= SHORT_WATCH:
            return 0.0
        return max(self._backoff.next(now), _asked(error))


def streams_no_lists(step: Step, error: Exception) -> bool:
    """Whether the server has refused a streaming list as something that it does not know, as older ones do."""
    return step.kind is StepKind.STREAM and isinstance(error, BadRequest | Invalid)


def _asked(error: Exception) -> float:
    return error.retry_after or 0.0 if isinstance(error, ApiError) else 0.0


def _too_large(error: Exception) -> bool:
    """The version asked for is newer than what this server has, as after a restore from a backup."""
    if not isinstance(error, ApiError):
        return False
    return error.has_cause("ResourceVersionTooLarge") or (
        isinstance(error, ServerTimeout) and "Too large resource version" in error.message
    )


@final
class StreamedVersions:
    """Which resource version a watch has reached.

    A watch that starts without a version sends what exists first, in any order: those events say nothing about how far
    it is, until the first event that is not an ADDED, or a bookmark.
    """

    __slots__ = ("_ordered", "_revision", "reached")

    def __init__(self, start: str) -> None:
        self._ordered = start not in ("", "0")
        self.reached = "" if not self._ordered else start
        self._revision = revision(self.reached)

    def before(self, resource_version: int) -> bool:
        """Whether the watch is past that version, which a bookmark of it never names: unless history went back."""
        return 0 <= resource_version < self._revision

    def told(self, resource_version: int) -> bool:
        """Whether the watch is past that version: an event of it is a repetition, perhaps of an object that has gone since."""
        return 0 <= resource_version <= self._revision

    def event(self, event_type: str, resource_version: str) -> str:
        """Take note of an event; the version to go on from, "" while unknown."""
        if event_type != "ADDED":
            self._ordered = True
        number = revision(resource_version)
        if self._ordered and (number >= self._revision or not self.reached):
            self.reached, self._revision = resource_version, number
        return self.reached
