"""String formats that a structural schema may name."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUANTITY: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?\Z", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?\.?)+\Z", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\Z")
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5,7}[0-9A-Fa-f]{2}\Z", re.ASCII)
_UUID = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}\Z", re.ASCII)


def is_date_time(text: str) -> bool:
    """RFC 3339 with an offset."""
    return bool(_DATE_TIME.match(text)) and parse_date_time(text) is not None


def parse_date_time(text: str) -> datetime | None:
    """The aware time, or None. Digits beyond microseconds are dropped."""
    match = re.match(r"(.{19})(\.\d+)?(.*)\Z", text, re.DOTALL)
    if match is None:
        return None
    fraction = (match[2] or "")[:7]
    try:
        moment = datetime.fromisoformat(
            match[1].upper() + (fraction.ljust(7, "0") if fraction else "") + match[3].upper()
        )
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def parse_duration(text: str) -> timedelta | None:
    """A Go duration such as ``1h30m`` or ``-1.5s``; None when it is not one."""
    sign, body = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if body == "0":
        return timedelta()
    position, seconds = 0, 0.0
    while part := _DURATION_PART.match(body, position):
        seconds += float(part[1]) * _DURATION_UNITS[part[2]]
        position = part.end()
    return timedelta(seconds=sign * seconds) if position and position == len(body) else None


def _parses(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return check


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


def _version(number: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        return bool(_UUID.match(text)) and uuid.UUID(text).version == number

    return check


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = {
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "cidr": _parses(lambda text: ipaddress.ip_network(text, strict=False) if "/" in text else int("no prefix length")),
    "date": _parses(date.fromisoformat),
    "date-time": is_date_time,
    "datetime": is_date_time,
    "duration": lambda text: parse_duration(text) is not None,
    "email": lambda text: bool(_EMAIL.match(text)),
    "hostname": lambda text: bool(_HOSTNAME.match(text)),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "mac": lambda text: bool(_MAC.match(text)),
    "uri": _is_uri,
    "uuid": lambda text: bool(_UUID.match(text)),
    "uuid3": _version(3),
    "uuid4": _version(4),
    "uuid5": _version(5),
}
"""Format to test. A format that is not here is not checked, as on a real server."""
