"""What ``kubectl attach`` gets hold of: the streams of a container that is a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kaito.devcluster.kubelet.host import HostKubelet
from kaito.devcluster.kubelet.host.streams import Client
from kaito.runtime import BadRequest


class Options(Protocol):
    """The part of ``core/v1 PodAttachOptions`` that matters here."""

    @property
    def container(self) -> str: ...
    @property
    def stdin(self) -> bool: ...


Attach = Callable[[Mapping[str, Any], Options], Client]


def attacher(processes: HostKubelet | None) -> Attach:
    """An attach provider for the API server."""

    def attach(pod: Mapping[str, Any], options: Options) -> Client:
        """Raises BadRequest where there is no process, or no such stream."""
        where = f"container {options.container} of pod {pod['metadata']['name']}"
        container = processes.find(pod, options.container) if processes is not None else None
        if container is None:
            raise BadRequest(f"{where} only plays its part: there is no process to attach to")
        if container.streams is None:
            raise BadRequest(f"{where} does not run")
        if options.stdin and not container.streams.has_input:
            raise BadRequest(f"{where} has no input: it was not made with stdin: true")
        return container.streams.attach()

    return attach
