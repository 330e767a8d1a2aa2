"""The kubelet of the local cluster: it plays the part of nodes and pods, and runs nothing.

Nodes labelled ``kaito.sh/simulated=true`` report ready and keep up a lease; the pods bound to them go through their phases
by the rules of ``rules``, and are labelled ``kaito.sh/simulated=true``. Other nodes are left to their own kubelets.

Simulated is everything behind the API: no image is pulled, no process started, no probe sent, no volume mounted, no address
reachable. ``kubectl logs`` says so; exec, attach and port-forward are refused by the API server.
"""

from __future__ import annotations

from kaito.devcluster.kubelet import nodes, pods
from kaito.devcluster.kubelet.containers import SIMULATED
from kaito.devcluster.kubelet.logs import SimulatedLogs
from kaito.devcluster.kubelet.nodes import SYSTEM_NODE, system_node
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import Manager

__all__ = ["SIMULATED", "SYSTEM_NODE", "SimulatedLogs", "Timing", "setup", "system_node"]


def setup(manager: Manager, timing: Timing | None = None) -> None:
    nodes.setup(manager)
    pods.setup(manager, timing or Timing())
