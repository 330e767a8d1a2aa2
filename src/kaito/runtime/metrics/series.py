"""Numbers and histograms that belong to the event loop, so that counting takes no lock and imports nothing.

prometheus_client is what a scrape needs; loading it would be a tenth of a controller's start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Generic, Literal, TypeVar, final


@final
class Number:
    """The value of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value


@final
class Histogram:
    """Counts per bucket of ``bounds``, upper bounds in the unit of what is observed, and beyond."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


Series = TypeVar("Series", Number, Histogram)


@final
class Family(Generic[Series]):
    """One metric: a series for each combination of label values that was named."""

    __slots__ = ("_make", "kind", "label_names", "name", "series", "text")

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        text: str,
        label_names: tuple[str, ...],
        make: Callable[[], Series],
    ) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = label_names
        self.series: dict[tuple[str, ...], Series] = {}
        self._make: Callable[[], Series] = make

    def labels(self, *values: str) -> Series:
        """The series of ``values``, in the order of the label names; it is reported from now on.

        Raises ValueError where their number differs from that of the names.
        """
        found = self.series.get(values)
        if found is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            found = self.series[values] = self._make()
        return found
