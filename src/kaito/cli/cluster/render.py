"""The tree as lines that fit a terminal. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from kaito.cli.cluster.picture import Part, State

COLOURS: dict[State, str] = {
    "Ready": "green",
    "Done": "green",
    "Waiting": "yellow",
    "Deleting": "magenta",
    "Failed": "red",
    "Missing": "red",
}
_STATE, _AGE = 8, 6
_LEAST_NAME = 24


@dataclass(frozen=True, slots=True)
class Line:
    guide: str
    """What connects it with the lines above."""
    text: str
    state: State | None = None
    """None for a line that says more of the part above it."""
    age: str = ""

    def plain(self, width: int) -> str:
        if self.state is None:
            return f"{self.guide}{self.text}"
        name = f"{self.guide}{self.text}".ljust(width - _STATE - _AGE - 2)
        return f"{name} {self.state:{_STATE}} {self.age:>{_AGE}}".rstrip()


def lines(part: Part, now: datetime, width: int) -> Iterator[Line]:
    """No line is longer than ``width`` columns, of which 40 are needed; what a part says is wrapped beneath it."""
    width = max(width, 40)
    yield from _lines(part, now, width, "", "")


def _lines(part: Part, now: datetime, width: int, guide: str, below: str) -> Iterator[Line]:
    room = max(_LEAST_NAME, width - _STATE - _AGE - 3) - len(guide)
    yield Line(guide, _cut(f"{part.kind} {part.name}", room), part.state, _age(part.since, now))
    if part.says:
        hang = below + ("│ " if part.parts else "  ")
        for text in textwrap.wrap(" ".join(part.says.split()), max(20, width - len(hang))):
            yield Line(hang, text)
    for position, child in enumerate(part.parts):
        last = position == len(part.parts) - 1
        yield from _lines(child, now, width, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))


def _cut(text: str, room: int) -> str:
    """The beginning and the end, which tell pods apart."""
    if len(text) <= room:
        return text
    tail = min(room // 2, 12)
    return f"{text[: room - tail - 1]}…{text[-tail:]}"


def _age(since: datetime | None, now: datetime) -> str:
    return "" if since is None else duration((now - since).total_seconds())


def duration(seconds: float) -> str:
    """As kubectl writes ages: the two largest units at most."""
    left = max(0, int(seconds))
    for unit, size, finer, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if left >= size:
            rest = left % size // small
            return f"{left // size}{unit}{rest}{finer}" if rest and left < 10 * size else f"{left // size}{unit}"
    return f"{left}s"
