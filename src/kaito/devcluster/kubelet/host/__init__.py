"""Pods as processes of this machine.

A pod with a container whose image the image map knows runs for real: each known container is a process of this machine
under the user who runs the cluster, and the pod has a loopback address of its own, on which its ports listen. Containers
whose images it does not know only play their part beside them.

A container's filesystem is a folder. Its volumes are links in it, and paths below its mount paths are replaced by those of
the folder in its command, its arguments and its environment. Nothing is isolated.

Looser than a kubelet: CPU requests and limits do not act; mounted ConfigMaps and Secrets stay as they were when the pod
began; a volume's size, mode and read-only flag are not enforced; commands of probes and hooks run only where the host's
commands are allowed, and count as successful elsewhere; gRPC probes ask whether the port accepts connections; there are no
postStart hooks, no termination messages, no ephemeral containers, and no variables of Services in the environment.
"""

from __future__ import annotations

from kaito.devcluster.kubelet.host.images import HOST_COMMANDS, Entry, ImageMap, Invocation, Program
from kaito.devcluster.kubelet.host.kubelet import HostKubelet
from kaito.devcluster.kubelet.host.programs import known_programs

__all__ = ["HOST_COMMANDS", "Entry", "HostKubelet", "ImageMap", "Invocation", "Program", "known_programs"]
