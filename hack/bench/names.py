"""What the contenders agree on. Imports nothing, so that no contender carries another one's modules."""

from __future__ import annotations

GROUP, VERSION, PLURAL, NAMESPACE = "bench.kaito.sh", "v1", "widgets", "bench"
STAMP = "bench.kaito.sh/changed-at"
"""Annotation with the time of a change: CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share."""
STARTED = "KAITO_BENCH_STARTED"
"""Environment variable with the time at which a contender's process was started, on the same clock."""
