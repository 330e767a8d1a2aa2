"""Durations as ``kubectl`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema.formats import parse_date_time

if TYPE_CHECKING:
    from datetime import datetime, timedelta

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def human_duration(elapsed: timedelta) -> str:
    """Two units at most, fewer the longer it lasts: ``119s``, ``5m12s``, ``3h4m``, ``2d3h``, ``400d``."""
    seconds = int(elapsed.total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    if seconds < 2 * _MINUTE:
        return f"{seconds}s"
    if seconds < 10 * _MINUTE:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 3 * _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < 8 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < 8 * _DAY:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < 2 * _YEAR:
        return f"{seconds // _DAY}d"
    if seconds < 8 * _YEAR:
        return _two(seconds, _YEAR, "y", _DAY, "d")
    return f"{seconds // _YEAR}y"


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    whole, rest = seconds // large, seconds % large // small
    return f"{whole}{large_name}{rest}{small_name}" if rest else f"{whole}{large_name}"


def since(timestamp: str | None, now: datetime) -> str:
    """The time from ``timestamp`` (RFC 3339) to ``now``; ``<unknown>`` when there is none."""
    moment = parse_date_time(timestamp) if timestamp else None
    return human_duration(now - moment) if moment is not None else "<unknown>"
