"""Hosts that data is not loaded from: a user's address must not reach into the cluster's own network."""

from __future__ import annotations

import ipaddress

_NAMES = frozenset({"localhost", "metadata", "metadata.google.internal", "metadata.azure.internal", "instance-data"})
_DOMAINS = (".localhost", ".cluster.local", ".svc", ".internal")


def is_private(host: str) -> bool:
    """Whether ``host``, a name or an IP address, is local, private, link-local or a cloud's metadata service."""
    name = host.lower().rstrip(".").strip("[]")
    if name in _NAMES or name.endswith(_DOMAINS):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global
