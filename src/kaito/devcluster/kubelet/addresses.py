"""IP addresses for pods and nodes: handed out in turn, so that one is not used again soon."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network

POD_NETWORK = IPv4Network("10.244.0.0/16")
NODE_NETWORK = IPv4Network("10.224.0.0/16")
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
