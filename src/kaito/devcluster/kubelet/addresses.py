"""IP addresses for pods and nodes: handed out in turn, so that one is not used again soon."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import final

POD_NETWORK = IPv4Network("10.244.0.0/16")
NODE_NETWORK = IPv4Network("10.224.0.0/16")
LOOPBACK_NETWORK = IPv4Network("127.128.0.0/9")
"""Of pods that are processes of this machine: whoever has an address of it has ports that listen."""
_FIRST = 4
"""The first addresses of a network belong to its routers."""


class Addresses:
    def __init__(self, network: IPv4Network, is_used: Callable[[str], bool]) -> None:
        self._network = network
        self._is_used = is_used
        self._next = _FIRST

    def take(self) -> str:
        """An address that is not used. Raises RuntimeError when there is none left."""
        size = self._network.num_addresses - 1
        for _ in range(size):
            address = str(self._network[self._next])
            self._next = self._next + 1 if self._next + 1 < size else _FIRST
            if not self._is_used(address):
                return address
        raise RuntimeError(f"all addresses of {self._network} are in use")


@final
class Lease:
    """An address of ``LOOPBACK_NETWORK`` that no other pod of this machine has, of whatever cluster, until it is released.

    The lease is a bound socket: it ends with this process at the latest.
    """

    PORT = 10250
    """The kubelet's own; over UDP it is free for a pod to use over TCP."""

    def __init__(self) -> None:
        """At random, so that addresses are rarely the same as those of a pod that has just gone."""
        while True:
            self.address = str(LOOPBACK_NETWORK[random.randrange(1, LOOPBACK_NETWORK.num_addresses - 1)])
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._socket.bind((self.address, self.PORT))
            except OSError as error:
                self._socket.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return

    def release(self) -> None:
        self._socket.close()
