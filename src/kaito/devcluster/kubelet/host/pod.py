"""The life of one pod whose containers are processes: volumes, init containers, containers, and an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import final

from kaito.devcluster.kubelet import containers as c
from kaito.devcluster.kubelet.host.container import Container, HostContainer, PretendedContainer, Setting, Stop
from kaito.devcluster.kubelet.host.images import ImageMap
from kaito.devcluster.kubelet.host.references import Missing
from kaito.devcluster.kubelet.host.volumes import make_volumes
from kaito.devcluster.kubelet.rules import Note
from kaito.runtime import Manifest


@final
class PodProcesses:
    """``run`` may be called once. Its own view of the containers is the truth, which others write into the pod's status."""

    def __init__(self, setting: Setting, images: ImageMap) -> None:
        self.setting = setting
        self.inits = self._containers(images, init=True)
        self.main = self._containers(images, init=False)
        self.ended = False
        """Nothing of it runs, or will run."""
        self._stop = Stop()

    def _containers(self, images: ImageMap, *, init: bool) -> list[Container]:
        made: list[Container] = []
        for spec in c.specs(self.setting.pod, init=init):
            build = images.find(spec)
            made.append(
                PretendedContainer(spec, self.setting, init=init)
                if build is None
                else HostContainer(spec, build, self.setting, init=init)
            )
            if init or c.specs(self.setting.pod, init=True):
                made[-1].status = c.waiting(spec, c.INITIALIZING)
        return made

    def find(self, name: str) -> Container | None:
        return next((each for each in (*self.main, *self.inits) if each.status["name"] == name), None)

    def statuses(self, *, init: bool) -> list[Manifest]:
        return [each.status for each in (self.inits if init else self.main)]

    def stop(self, grace: float) -> None:
        """End it within ``grace`` seconds; a later call can only shorten that."""
        self._stop.ask(grace)
        for each in (*self.inits, *self.main):
            each.stop(grace)

    async def run(self) -> None:
        """Until all has ended for good. Whoever cancels it ends its processes at once."""
        sidecars: list[asyncio.Task[None]] = []
        try:
            if await self._volumes() and await self._initialize(sidecars):
                await _all([asyncio.create_task(each.run()) for each in self.main])
            for init, sidecar in zip(self.inits, c.specs(self.setting.pod, init=True), strict=True):
                if c.is_sidecar(sidecar):
                    init.stop(self.setting.grace)
            await _all(sidecars)
        finally:
            for task in sidecars:
                task.cancel()
            if sidecars:
                await asyncio.wait(sidecars)
            self.ended = True
            self.setting.changed()

    async def _volumes(self) -> bool:
        """False if it is to stop before its volumes are there."""
        setting, said = self.setting, ""
        while not self._stop.asked.is_set():
            try:
                await make_volumes(setting.pod, setting.node, setting.sources, setting.folders)
            except (Missing, OSError) as error:
                if str(error) != said:
                    said = str(error)
                    setting.note(Note("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}"))
                await self._stop.sleep(setting.timing.retry)
            else:
                return True
        return False

    async def _initialize(self, sidecars: list[asyncio.Task[None]]) -> bool:
        """Run the init containers in turn; False if the containers are not to start."""
        for container, spec in zip(self.inits, c.specs(self.setting.pod, init=True), strict=True):
            if self._stop.asked.is_set():
                return False
            if c.is_sidecar(spec):
                sidecars.append(asyncio.create_task(container.run()))
                while not container.status.get("started"):
                    if not await self._stop.sleep(0.05 * self.setting.timing.second):
                        return False
                continue
            await container.run()
            if c.exit_code(container.status) != 0:
                return False
        return not self._stop.asked.is_set()


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for all; the first error, or a cancellation, ends the others."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
