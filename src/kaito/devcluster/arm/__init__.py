"""An emulator of the part of Azure Resource Manager that makes agent pools, for the local cluster and for tests.

It speaks plain HTTP on loopback, wants a bearer token, and keeps its state in memory. ``server`` is the wire (paths,
authentication, headers, pages), ``pools`` the rules of agent pools, ``operations`` what goes on in the background,
``faults`` how tests make it misbehave, ``nodes`` the Node objects that finished pools become.

Beyond agent pools, their operations and nothing else, it answers 404; it knows one subscription, group and cluster.
"""

from __future__ import annotations

from kaito.devcluster.arm.faults import Fault, Faults, Plan
from kaito.devcluster.arm.nodes import build_node, build_nodes
from kaito.devcluster.arm.pools import Pool
from kaito.devcluster.arm.server import ArmEmulator, ArmOptions
from kaito.devcluster.arm.site import Site
from kaito.devcluster.arm.vm_sizes import VM_SIZES, VmSize

__all__ = [
    "VM_SIZES",
    "ArmEmulator",
    "ArmOptions",
    "Fault",
    "Faults",
    "Plan",
    "Pool",
    "Site",
    "VmSize",
    "build_node",
    "build_nodes",
]
