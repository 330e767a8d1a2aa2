"""What a contender has seen, and how it tells the benchmark."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hack.bench.names import NAMESPACE, STAMP, STARTED, Names


def resident() -> tuple[float, float]:
    """Current and peak resident memory in MB."""
    fields = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    )
    now, peak = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


class Report:
    """Waits for each of the objects once; every later change is timed."""

    def __init__(self, names: Names, count: int) -> None:
        self._left = {names.of(number) for number in range(count)}
        self._latencies: list[float] = []
        self._lag: list[float] = []

    def reconciled(self, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        if namespace != NAMESPACE:
            return
        if self._left:
            self._left.discard(name)
            if not self._left:
                self.say("reconciled", seconds=(time.monotonic_ns() - int(os.environ[STARTED])) / 1e9)
            return
        if STAMP in annotations:
            self._latencies.append((time.monotonic_ns() - int(annotations[STAMP])) / 1e9)

    def say(self, what: str, **values: Any) -> None:
        print(json.dumps({"what": what, **values}), flush=True)

    async def serve(self) -> None:
        """Answer each line of standard input with the figures so far; return at its end."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

        threading.Thread(target=read, daemon=True).start()
        lag = asyncio.create_task(self._measure_lag())
        while await lines.get():
            now, peak = resident()
            times = os.times()
            self.say(
                "figures", rss=now, peak=peak, cpu=times.user + times.system, latencies=self._latencies, lag=self._lag
            )
            self._latencies, self._lag = [], []
        lag.cancel()

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.01
            await asyncio.sleep(0.01)
            self._lag.append(max(0.0, loop.time() - due))
