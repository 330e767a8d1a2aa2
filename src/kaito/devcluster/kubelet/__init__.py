"""The kubelet of the local cluster: it plays the part of nodes, and of pods unless they are processes of this machine.

Nodes labelled ``kaito.sh/simulated=true`` report ready and keep up a lease. Other nodes are left to their own kubelets. No
image is ever pulled. Pods with images that the image map knows are processes (``host``). The others go through their phases
by the rules of ``rules``, and are labelled ``kaito.sh/simulated=true``: no process is started, no probe sent, no volume
mounted, no address reachable, and ``kubectl logs`` says so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from kaito.devcluster.kubelet import nodes, pods
from kaito.devcluster.kubelet.attach import Attach, attacher
from kaito.devcluster.kubelet.containers import SIMULATED
from kaito.devcluster.kubelet.host import HOST_COMMANDS, HostKubelet, ImageMap, known_programs, programs
from kaito.devcluster.kubelet.logs import Logs
from kaito.devcluster.kubelet.nodes import SYSTEM_NODE, system_node
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import Manager

__all__ = [
    "SIMULATED",
    "SYSTEM_NODE",
    "ImageMap",
    "Logs",
    "Timing",
    "can_tune",
    "images_that_run",
    "setup",
    "system_node",
]


def can_tune() -> bool:
    """Whether pods of tuning Jobs run here, and models that load what they make."""
    return sys.platform == "linux" and bool(programs.serving_engine()) and programs.can_tune()


def images_that_run(*, pretend: bool = False, more: Iterable[str] = (), host_commands: bool = False) -> ImageMap | None:
    """The image map of a user's cluster: None where nothing is to run, or can. Pods are processes on Linux alone, where every
    address of the loopback network is there.

    ``more``: globs of further images with kaito's programs; ``host_commands``: whether the commands of manifests run.
    """
    if pretend or sys.platform != "linux":
        return None
    known = known_programs(more)
    return known + HOST_COMMANDS if host_commands else known


@dataclass(frozen=True, slots=True)
class Streaming:
    """What a kubelet answers itself, behind the API server."""

    logs: Logs
    attach: Attach


def setup(manager: Manager, timing: Timing | None = None, images: ImageMap | None = None) -> Streaming:
    """``images``: what runs as processes; None for nothing. What ``kubectl logs`` and ``attach`` are to ask."""
    timing, host = timing or Timing(), None
    nodes.setup(manager)
    if images is not None:
        recorder = manager.recorder(nodes.NAME)
        host = HostKubelet(images, manager.config, manager.client, recorder, manager.clock, timing)
        manager.add_context("kubelet processes", host)
    pods.setup(manager, timing, host)
    return Streaming(Logs(manager.cache, host), attacher(host))
