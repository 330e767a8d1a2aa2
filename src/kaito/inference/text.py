"""Text from tokens, piece by piece, and where it has to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@final
class Detokenizer:
    """Gives the text of tokens as they come.

    A token may hold part of a character, and how a token is written may depend on the one before: the text is that of a
    short window of tokens less the text that was already given.
    """

    __slots__ = ("_decode", "_given", "_start", "_tokens")

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = self._given = 0

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain after ``tokens``."""
        self._tokens += tokens
        text = self._pending()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._start, self._given = self._given, len(self._tokens)
        return text

    def flush(self) -> str:
        """What is left at the end, whole characters or not."""
        text = self._pending()
        self._start = self._given = len(self._tokens)
        return text

    def _pending(self) -> str:
        if self._given == len(self._tokens):
            return ""
        before = self._decode(self._tokens[self._start : self._given])
        return self._decode(self._tokens[self._start :])[len(before) :]


@final
class StopFinder:
    """Cuts a text at the first of the ``stops``; holds back an end that may be the beginning of one."""

    __slots__ = ("_held", "_longest", "_stops", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that can be given out."""
        if not self._stops:
            return text
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = next((size for size in range(min(self._longest - 1, len(text)), 0, -1) if self._begins(text[-size:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop."""
        held, self._held = self._held, ""
        return held

    def _begins(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stops)
