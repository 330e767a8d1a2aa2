"""What ``kubectl logs`` shows: what a process has written, and of a container that only plays its part the truth, in a few
lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Protocol

from kaito.devcluster.kubelet import containers as c
from kaito.devcluster.kubelet.host import HostKubelet, logfile
from kaito.runtime import PODS, BadRequest, Cache, Event, EventType


class Options(logfile.Options, Protocol):
    """The part of ``core/v1 PodLogOptions`` that matters here."""

    @property
    def container(self) -> str: ...
    @property
    def previous(self) -> bool: ...


class Logs:
    """A log provider for the API server."""

    def __init__(self, cache: Cache, processes: HostKubelet | None) -> None:
        self._cache = cache
        self._processes = processes

    def __call__(self, pod: Mapping[str, Any], options: Options) -> AsyncGenerator[bytes, None]:
        """Raises BadRequest for a container that has not started."""
        container = self._processes.find(pod, options.container) if self._processes is not None else None
        if container is not None:
            log = container.log(previous=options.previous)
            if log is None:
                raise _none_yet(pod, options)
            return log.read(options)
        return self._stream(pod, options, render(pod, options))

    async def _stream(self, pod: Mapping[str, Any], options: Options, text: bytes) -> AsyncGenerator[bytes, None]:
        yield text
        if options.follow and not options.previous:
            await self._ended(pod["metadata"]["uid"], options.container)

    async def _ended(self, uid: str, container: str) -> None:
        """Until the container does not run any more."""
        over = asyncio.Event()

        def look(event: Event[Any]) -> None:
            if event.current.uid != uid:
                return
            held = find(event.current.decode(), container)
            if event.type is EventType.DELETED or held is None or not c.is_running(held):
                over.set()

        registration = self._cache.informer(PODS).add_handler(look, PODS)
        try:
            await over.wait()
        finally:
            registration.remove()


def find(pod: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    held = (*c.statuses(pod), *c.statuses(pod, init=True))
    return next((item for item in held if item["name"] == container), None)


def render(pod: Mapping[str, Any], options: Options) -> bytes:
    """The lines of a container so far. Raises BadRequest where a real kubelet would have none."""
    status = find(pod, options.container)
    state = (status or {}).get("state") or {}
    last = (status or {}).get("lastState") or {}
    if options.previous or "waiting" in state:
        state = last
    if status is None or not state:
        raise _none_yet(pod, options)
    lines = [f"{moment} {text}" if options.timestamps else text for moment, text in _lines(pod, status, state)]
    if options.tail_lines is not None:
        lines = lines[len(lines) - min(options.tail_lines, len(lines)) :]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text if options.limit_bytes is None else text[: options.limit_bytes]


def _none_yet(pod: Mapping[str, Any], options: Options) -> BadRequest:
    where = f'container "{options.container}" in pod "{pod["metadata"]["name"]}"'
    if options.previous:
        return BadRequest(f"previous terminated {where} not found")
    status = find(pod, options.container) or {}
    return BadRequest(f"{where} is waiting to start: {c.waiting_reason(status) or c.CREATING}")


def _lines(pod: Mapping[str, Any], status: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    metadata, node = pod["metadata"], pod["spec"].get("nodeName", "")
    ended = state.get("terminated")
    started = (ended or state.get("running") or {}).get("startedAt", "")
    yield started, f"simulated container {status['name']} of pod {metadata['namespace']}/{metadata['name']} on {node}"
    yield started, f"no process runs: the image {status['image']} was not pulled and its command is not executed"
    if status.get("ready"):
        yield started, "it counts as ready because the local cluster's rules say so"
    if ended:
        yield ended.get("finishedAt", ""), f"ended with exit code {ended['exitCode']}: {ended['reason']}"
