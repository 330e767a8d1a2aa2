"""The life of one container: started, probed, started again as the pod's restart policy says, ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final
from uuid import uuid4

import aiohttp

from kaito.devcluster.kubelet import containers as c
from kaito.devcluster.kubelet.host import probes
from kaito.devcluster.kubelet.host.environment import environment, expand
from kaito.devcluster.kubelet.host.images import Builder, Invocation, Program
from kaito.devcluster.kubelet.host.logfile import LogFile
from kaito.devcluster.kubelet.host.prober import Failed, Prober
from kaito.devcluster.kubelet.host.process import HostProcess
from kaito.devcluster.kubelet.host.references import Missing, Sources, memory_limit
from kaito.devcluster.kubelet.host.streams import Streams
from kaito.devcluster.kubelet.host.volumes import Folders, make_root
from kaito.devcluster.kubelet.host.watcher import VARIABLE
from kaito.devcluster.kubelet.rules import Note
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import Clock, Manifest, first_of

RESET_AFTER = 600.0
"""Seconds of running after which a container's crashes are forgotten, as by a kubelet."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the containers of a pod share."""

    pod: Manifest
    """With its addresses in its status."""
    node: Manifest
    address: str
    mark: str
    """With which the marks of its processes begin."""
    sources: Sources
    folders: Folders
    base: Mapping[str, str]
    """Environment that every container has."""
    session: aiohttp.ClientSession
    clock: Clock
    timing: Timing
    changed: Callable[[], None]
    note: Callable[[Note], None]

    @property
    def grace(self) -> float:
        seconds = self.pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if seconds is None else float(seconds)


class Container(Protocol):
    """One container of a pod, init containers included."""

    status: Manifest

    async def run(self) -> None:
        """Until it has ended for good. Whoever cancels it ends its processes at once."""
        ...

    def stop(self, grace: float) -> None:
        """End in order, at the latest after ``grace`` seconds; a later call can only shorten that."""
        ...


@dataclass(slots=True)
class Stop:
    """The wish that something ends, which others wait for."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float = float("inf")
    """In the event loop's time."""
    shortened: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, grace: float) -> None:
        due = asyncio.get_running_loop().time() + grace
        if due < self.deadline:
            self.deadline = due
            self.shortened.set()
            self.shortened = asyncio.Event()
        self.asked.set()

    async def sleep(self, seconds: float) -> bool:
        """Sleep, but not longer than nobody asks to stop; whether nobody did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.asked.wait()
        return not self.asked.is_set()


@final
class PretendedContainer:
    """One whose image stands for no program: it plays its part in time."""

    def __init__(self, spec: Manifest, setting: Setting, *, init: bool) -> None:
        self.status = c.waiting(spec, c.CREATING)
        self._setting = setting
        self._stop = Stop()
        self._seconds = setting.timing.init if init and not c.is_sidecar(spec) else None
        if self._seconds is None and not init and c.runs_to_completion(setting.pod):
            self._seconds = setting.timing.run

    async def run(self) -> None:
        setting = self._setting
        self.status = {**c.running(setting.pod, self.status, setting.clock.now()), "ready": True}
        setting.changed()
        if self._seconds is None:
            await self._stop.asked.wait()
        else:
            await self._stop.sleep(self._seconds)
        self.status = c.terminated(self.status, 0, "Completed", setting.clock.now())
        setting.changed()

    def stop(self, grace: float) -> None:
        self._stop.ask(grace)


@final
class HostContainer:
    """One that is a process of this machine."""

    def __init__(self, spec: Manifest, build: Builder, setting: Setting, *, init: bool) -> None:
        self.spec = spec
        self.status = c.waiting(spec, c.CREATING)
        self.logs: list[LogFile] = []
        """Of its last two attempts, the newest at the end."""
        self._process: HostProcess | None = None
        self._build = build
        self._setting = setting
        self._stop = self._ending = Stop()
        self._attempt = 0
        self._crashes = 0
        policy = setting.pod["spec"].get("restartPolicy", "Always")
        if init:
            policy = "Always" if c.is_sidecar(spec) else "Never" if policy == "Never" else "OnFailure"
        self._policy = policy

    def log(self, *, previous: bool = False) -> LogFile | None:
        """Of the newest attempt; ``previous``: of the newest that is over, unless nothing runs and it is the same."""
        index = -2 if previous and c.is_running(self.status) else -1
        if len(self.logs) < -index or (previous and not self.status.get("lastState")):
            return None
        return self.logs[index]

    @property
    def streams(self) -> Streams | None:
        """Those of its process; None while there is none."""
        return self._process.streams if self._process is not None else None

    def stop(self, grace: float) -> None:
        self._stop.ask(grace)
        self._ending.ask(grace)

    async def run(self) -> None:
        while not self._stop.asked.is_set():
            started = self._setting.clock.monotonic()
            try:
                begun = await self._begin()
            except (Missing, OSError, ValueError) as error:
                kind = "CreateContainerConfigError" if isinstance(error, Missing) else "CreateContainerError"
                await self._cannot_start(kind, str(error))
                continue
            code, reason = await self._supervise(*begun)
            again = self._policy == "Always" or (self._policy == "OnFailure" and code != 0)
            now = self._setting.clock.now()
            if not again or self._stop.asked.is_set():
                self.status = c.terminated(self.status, code, reason, now)
                self._setting.changed()
                return
            if self._setting.clock.monotonic() - started >= RESET_AFTER:
                self._crashes = 0
            await self._back_off(code, reason)

    async def _cannot_start(self, kind: str, message: str) -> None:
        if c.waiting_reason(self.status) != kind:
            self._setting.note(Note("Warning", "Failed", f"Error: {message}"))
        self.status = {**self.status, "state": {"waiting": {"reason": kind, "message": message}}}
        self._setting.changed()
        await self._stop.sleep(self._setting.timing.retry)

    async def _back_off(self, code: int, reason: str) -> None:
        """The first restart comes at once, the second after the first delay, and so on."""
        timing, metadata = self._setting.timing, self._setting.pod["metadata"]
        delay = min(timing.max_back_off, timing.back_off * 2.0 ** (self._crashes - 1)) if self._crashes else 0.0
        self._crashes += 1
        where = f"{self.spec['name']} in pod {metadata['name']}_{metadata['namespace']}"
        message = f"back-off {delay:g}s restarting failed container={where}"
        self.status = c.crashed(self.status, code, reason, message, self._setting.clock.now())
        if delay:
            self._setting.changed()
            self._setting.note(Note("Warning", "BackOff", f"Back-off restarting failed container {where}"))
        if not await self._stop.sleep(delay):
            self.status = {**self.status, "state": self.status["lastState"]}
            self._setting.changed()

    async def _begin(self) -> tuple[HostProcess, Program, probes.Target]:
        """Start the process. Raises Missing, OSError and ValueError where it cannot be started."""
        setting, spec = self._setting, self.spec
        environ = await environment(spec, setting.pod, setting.node, setting.sources, setting.base)
        volumes = [volume["name"] for volume in setting.pod["spec"].get("volumes") or ()]
        root = make_root(spec, environ, volumes, setting.folders)
        words = tuple(
            root.translate(word)
            for word in (
                *(expand(word, environ) for word in spec.get("command") or ()),
                *(expand(word, environ) for word in spec.get("args") or ()),
            )
        )
        environ = {name: root.translate(value) for name, value in environ.items()}
        environ |= {"HOME": str(root.path), "TMPDIR": root.of("/tmp")}
        program = self._build(Invocation(spec["image"], words, setting.address, root, environ))
        environ |= program.environ
        directory = root.path
        if program.commands and spec.get("workingDir"):
            directory = root.path / spec["workingDir"].strip("/")
            directory.mkdir(parents=True, exist_ok=True)
        identity = uuid4().hex
        log = self._new_log()
        if program.note:
            log.write(program.note.encode(), setting.clock.now())
        mark = f"{setting.mark}.{identity}"
        try:
            process = await HostProcess.start(
                program.command,
                environ=environ,
                directory=directory,
                mark=mark,
                log=log,
                memory=memory_limit(spec),
                stdin=bool(spec.get("stdin")),
                once=bool(spec.get("stdinOnce")),
                tty=bool(spec.get("tty")),
            )
        except BaseException:
            log.close()
            raise
        self.status = c.running(setting.pod, self.status, setting.clock.now())
        self.status |= {"imageID": f"host://{spec['image']}", "containerID": f"host://{identity}", "started": False}

        async def command(given: Sequence[str]) -> int:
            return await _run([root.translate(word) for word in given], environ, directory.as_posix(), mark)

        target = probes.Target(
            setting.address,
            {port["name"]: port["containerPort"] for port in spec.get("ports") or () if port.get("name")},
            setting.session,
            command if program.commands else None,
        )
        for reason, text in (
            ("Pulled", f'Image "{spec["image"]}" stands for a program of this machine'),
            ("Created", f"Created container: {spec['name']}"),
            ("Started", f"Started container {spec['name']} as process {process.pid}"),
        ):
            setting.note(Note("Normal", reason, text))
        return process, program, target

    def _new_log(self) -> LogFile:
        log = LogFile(self._setting.folders.log(self.spec["name"], self._attempt))
        self._attempt += 1
        self.logs.append(log)
        if len(self.logs) > 2:
            self.logs.pop(0).remove()
        return log

    async def _supervise(self, process: HostProcess, program: Program, target: probes.Target) -> tuple[int, str]:
        """Until it has ended, by itself or because it has to. Exit code and reason."""
        now = self._setting.clock.now
        exited = asyncio.create_task(process.wait(now), name=f"process {process.pid}")
        prober = Prober(self.spec, target, self._setting.timing.second, program.quick, self._report, self._setting.note)
        probing = asyncio.create_task(self._watch_over(target, prober), name=f"probes of process {process.pid}")
        stopping = asyncio.create_task(self._stop.asked.wait())
        self._process, self._ending = process, self._stop
        try:
            await asyncio.wait({exited, probing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done() and not exited.done() and not stopping.done():
                failed = probing.result()
                note = f"Container {self.spec['name']} failed {failed.what}, will be restarted"
                self._setting.note(Note("Normal", "Killing", note))
                self._ending = Stop()
                self._ending.ask(self._setting.grace if failed.grace is None else failed.grace)
            elif not exited.done():
                self._setting.note(Note("Normal", "Killing", f"Stopping container {self.spec['name']}"))
            if not exited.done():
                self._report(ready=False)
                await self._end(process, exited, target, self._ending)
            code = await exited
        finally:
            self._process, self._ending = None, self._stop
            for task in (probing, stopping, exited):
                task.cancel()
            await asyncio.wait({probing, stopping, exited})
        if not probing.cancelled():
            probing.result()
        reason = "OOMKilled" if process.out_of_memory else "Completed" if code == 0 else "Error"
        return code, reason

    async def _watch_over(self, target: probes.Target, prober: Prober) -> Failed:
        """The hook, and the probes when it has succeeded, until the container has to be restarted."""
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook:
            try:
                await _hook(hook, target)
            except probes.Failure as error:
                self._setting.note(Note("Warning", "FailedPostStartHook", f"PostStartHook failed: {error}"))
                return Failed("postStart hook", None)
        return await prober.run()

    async def _end(self, process: HostProcess, exited: asyncio.Task[int], target: probes.Target, stop: Stop) -> None:
        """The hook, SIGTERM, and SIGKILL when the time is up."""
        hook = ((self.spec.get("lifecycle") or {}).get("preStop")) or {}
        if hook:
            await self._within(stop, exited, _last_hook(hook, target))
        if stop.deadline > asyncio.get_running_loop().time():
            process.signal(signal.SIGTERM)
            await self._within(stop, exited, asyncio.Event().wait())
        if not exited.done():
            process.kill()

    @staticmethod
    async def _within(stop: Stop, exited: asyncio.Task[int], work: Coroutine[Any, Any, Any]) -> None:
        """Wait for ``work`` while the process runs and there is time."""
        working = asyncio.create_task(work)
        loop = asyncio.get_running_loop()
        try:
            while not working.done() and not exited.done() and (left := stop.deadline - loop.time()) > 0:
                await first_of(stop.shortened.wait(), working, exited, timeout=left)
        finally:
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()

    def _report(self, *, started: bool | None = None, ready: bool | None = None) -> None:
        fresh = {**self.status}
        fresh |= {name: value for name, value in (("started", started), ("ready", ready)) if value is not None}
        if fresh != self.status:
            self.status = fresh
            self._setting.changed()


async def _hook(hook: Mapping[str, Any], target: probes.Target) -> None:
    """Raises Failure."""
    if seconds := (hook.get("sleep") or {}).get("seconds"):
        await asyncio.sleep(seconds)
    else:
        await probes.ask(hook, target, None)


async def _last_hook(hook: Mapping[str, Any], target: probes.Target) -> None:
    """A hook that fails does not keep the container."""
    with contextlib.suppress(probes.Failure):
        await _hook(hook, target)


async def _run(command: Sequence[str], environ: Mapping[str, str], directory: str, mark: str) -> int:
    """A command beside the container's process, ended with it."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**environ, VARIABLE: mark},
        cwd=directory,
        start_new_session=True,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
