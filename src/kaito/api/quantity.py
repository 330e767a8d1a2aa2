"""Kubernetes quantities: exact arithmetic and the canonical text of ``k8s.io/apimachinery`` resource quantities.

A quantity is held as an integer number of nano-units, which is the resolution of the format: finer amounts are rounded
away from zero when they are read, as the API server does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, total_ordering
from typing import Final, Literal

PATTERN: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""The regular expression that CustomResourceDefinitions carry for a quantity."""

_SYNTAX = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d+\.?\d*|\.\d+)(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?\d+))?\Z",
    re.ASCII,
)
_NANO = 10**9
_GIB = 2**30
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MAX_EXPONENT = 99

Format = Literal["BinarySI", "DecimalSI", "DecimalExponent"]


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An amount of a resource; equal amounts are equal whatever their text was (``1Gi == 1024Mi``)."""

    nanos: int
    format: Format = field(default="DecimalSI")

    @staticmethod
    def parse(text: str | int) -> Quantity:
        """The quantity written as ``text``. Raises ValueError with the text and the expected form."""
        return Quantity(text * _NANO) if isinstance(text, int) else Quantity._parsed(text)

    @staticmethod
    @lru_cache(maxsize=1024)
    def _parsed(text: str) -> Quantity:
        found = _SYNTAX.match(text)
        if found is None:
            raise ValueError(f"{text!r} is not a quantity: expected a number with a unit such as 500m, 2, 10G or 16Gi")
        suffix, exponent = found["suffix"] or "", found["exponent"]
        number = Fraction(found["number"].rstrip("."))
        style: Format = "DecimalSI"
        if suffix in _BINARY:
            number *= Fraction(1024) ** _BINARY[suffix]
            style = "BinarySI"
        elif exponent is not None:
            if abs(int(exponent)) > _MAX_EXPONENT:
                raise ValueError(f"{text!r} is not a quantity: its exponent is out of range")
            number *= Fraction(10) ** int(exponent)
            style = "DecimalExponent"
        else:
            number *= Fraction(10) ** _DECIMAL[suffix]
        scaled = number * _NANO
        nanos = -(-scaled.numerator // scaled.denominator)
        return Quantity(-nanos if found["sign"] == "-" else nanos, style)

    @staticmethod
    def gib(amount: int) -> Quantity:
        return Quantity(amount * _GIB * _NANO, "BinarySI")

    def ceil_gib(self) -> int:
        """Whole GiB, rounded up."""
        return -(-self.nanos // (_GIB * _NANO))

    def floor_gib(self) -> int:
        """Whole GiB, rounded down."""
        return self.nanos // (_GIB * _NANO)

    def ceil(self) -> int:
        """Whole units (bytes, cores, devices), rounded up."""
        return -(-self.nanos // _NANO)

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos + other.nanos, self.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos - other.nanos, self.format)

    def __mul__(self, factor: int) -> Quantity:
        return Quantity(self.nanos * factor, self.format)

    def __floordiv__(self, divisor: int) -> Quantity:
        """The share of one of ``divisor`` parts, rounded down to nano-units."""
        return Quantity(self.nanos // divisor, self.format)

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __eq__(self, other: object) -> bool:
        return self.nanos == other.nanos if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def __str__(self) -> str:
        """The canonical text: no fraction, and the largest unit that is exact."""
        if not self.nanos:
            return "0"
        sign, size = ("-", -self.nanos) if self.nanos < 0 else ("", self.nanos)
        if self.format == "BinarySI" and size >= 1024 * _NANO:
            return sign + _binary_text(-(-size // _NANO))
        return sign + _decimal_text(size, exponent=self.format == "DecimalExponent")


def _binary_text(units: int) -> str:
    for suffix, power in reversed(_BINARY.items()):
        if units % 1024**power == 0:
            return f"{units // 1024**power}{suffix}"
    return str(units)


def _decimal_text(nanos: int, *, exponent: bool) -> str:
    for suffix, power in reversed(_DECIMAL.items()):
        scale = 10 ** (power + 9)
        if nanos % scale == 0:
            unit = suffix if not exponent else f"e{power}" if power else ""
            return f"{nanos // scale}{unit}"
    raise AssertionError("nano-units divide every amount")
