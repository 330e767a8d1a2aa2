"""What the contenders agree on. Imports nothing of theirs, so that no contender carries another one's modules."""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """What a kind of object is called."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def of(self, number: int) -> str:
        """The name of the object with this number."""
        return f"{self.kind.lower()}-{number:06d}"


NAMESPACE = "bench"
WIDGET = Names("bench.kaito.sh", "v1", "Widget", "widgets")
POD = Names("", "v1", "Pod", "pods")
NAMES = {names.plural: names for names in (WIDGET, POD)}

STAMP = "bench.kaito.sh/changed-at"
"""Annotation with the time of a change: CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share."""
STARTED = "KAITO_BENCH_STARTED"
"""Environment variable with the time at which a contender's process was started, on the same clock."""
