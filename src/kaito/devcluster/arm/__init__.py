"""An emulator of the part of Azure Resource Manager that makes agent pools, for the local cluster and for tests.

It speaks HTTP on loopback, wants a bearer token, and keeps its state in memory. ``server`` is the wire (authentication,
faults, the log of requests), ``routes`` what each request is answered, ``managed`` the cluster and ``pools`` its agent pools,
``operations`` what goes on in the background, ``faults`` how it misbehaves and ``control`` how other processes make it do
so, ``tokens`` the token endpoint, ``nodes`` the Node objects that finished pools become.

Beyond the cluster's state, its agent pools, their operations and the list of VM sizes it answers 404; it knows one
subscription, group and cluster.
"""

from __future__ import annotations

from kaito.devcluster.arm.faults import Fault, Faults, Plan
from kaito.devcluster.arm.nodes import UNINITIALIZED, build_node, build_nodes, joining
from kaito.devcluster.arm.pools import Pool
from kaito.devcluster.arm.server import ArmEmulator, ArmOptions
from kaito.devcluster.arm.site import Site
from kaito.devcluster.arm.tokens import TokenServer
from kaito.devcluster.arm.vm_sizes import VM_SIZES, VmSize

__all__ = [
    "UNINITIALIZED",
    "VM_SIZES",
    "ArmEmulator",
    "ArmOptions",
    "Fault",
    "Faults",
    "Plan",
    "Pool",
    "Site",
    "TokenServer",
    "VmSize",
    "build_node",
    "build_nodes",
    "joining",
]
