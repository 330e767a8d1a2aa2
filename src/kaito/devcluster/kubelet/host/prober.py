"""The probes of one running container: whether it has started, is ready, and has to be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

from kaito.devcluster.kubelet.host import probes
from kaito.devcluster.kubelet.rules import Note

Kind = Literal["startup", "liveness", "readiness"]


@dataclass(frozen=True, slots=True)
class Failed:
    """A probe or hook by which the container has to be restarted."""

    what: str
    grace: float | None
    """Seconds that it has to end, where the probe says so."""


class Report(Protocol):
    def __call__(self, *, started: bool | None = None, ready: bool | None = None) -> None: ...


@final
class Prober:
    def __init__(
        self,
        container: Mapping[str, Any],
        target: probes.Target,
        second: float,
        quick: bool,
        report: Report,
        note: Callable[[Note], None],
    ) -> None:
        self._probes: dict[Kind, Mapping[str, Any] | None] = {
            "startup": container.get("startupProbe"),
            "liveness": container.get("livenessProbe"),
            "readiness": container.get("readinessProbe"),
        }
        self._target = target
        self._second = second
        self._quick = quick
        self._report = report
        self._note = note

    async def run(self) -> Failed:
        """Until the container has to be restarted."""
        if failed := await self._watch("startup"):
            return failed
        self._report(started=True, ready=self._probes["readiness"] is None)
        watching = {asyncio.create_task(self._watch(kind)): kind for kind in ("liveness", "readiness")}
        try:
            while watching:
                done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del watching[task]
                    if failed := task.result():
                        return failed
            forever: asyncio.Future[Failed] = asyncio.get_running_loop().create_future()
            return await forever
        finally:
            for task in watching:
                task.cancel()
            if watching:
                await asyncio.wait(watching)

    async def _watch(self, kind: Kind) -> Failed | None:
        """None at once without such a probe, and for a startup probe when it succeeds."""
        probe = self._probes[kind]
        if not probe:
            return None
        pace = probes.Pace.of(probe, second=self._second, quick=self._quick and kind != "liveness")
        good = bad = 0
        await asyncio.sleep(pace.initial_delay)
        while True:
            try:
                await probes.ask(probe, self._target, pace.timeout)
            except probes.Failure as error:
                good, bad = 0, bad + 1
                if not (self._quick and kind == "startup"):
                    self._note(Note("Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {error}"))
                if bad >= pace.failures and kind != "readiness":
                    return Failed(f"{kind} probe", probe.get("terminationGracePeriodSeconds"))
                if bad >= pace.failures:
                    self._report(ready=False)
            else:
                good, bad = good + 1, 0
                if kind == "startup":
                    return None
                if kind == "readiness" and good >= pace.successes:
                    self._report(ready=True)
            await asyncio.sleep(pace.period)
