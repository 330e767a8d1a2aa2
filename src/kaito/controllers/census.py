"""How many objects are in which state, and since when, from an index: counting them decodes none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kaito.runtime import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime


class Counted(NamedTuple):
    number: int
    oldest: float
    """Seconds that the one which entered the state first has been in it; 0 without one."""


def entry(state: str, since: str) -> str:
    """What an index files an object under which entered ``state`` at ``since``, RFC 3339 text or nothing."""
    return f"{state} {since}"


def count(entries: Mapping[str, int], states: Iterable[str], now: datetime) -> dict[str, Counted]:
    """Each of ``states``, from how many objects there are of each ``entry``."""
    numbers, since = dict.fromkeys(states, 0), dict[str, str]()
    for each, number in entries.items():
        state, _, moment = each.partition(" ")
        numbers[state] += number
        since[state] = min(since.get(state, moment), moment)
    return {state: Counted(number, _age(since.get(state, ""), now)) for state, number in numbers.items()}


def _age(since: str, now: datetime) -> float:
    return max(0.0, (now - parse_time(since)).total_seconds()) if since else 0.0
