"""Clouds that make nodes: the protocol, its values and errors, and the registry of providers.

An instance is whatever a cloud makes for one Machine; on AKS it is an agent pool of one node. Providers live in packages
of their own and are imported only when they are chosen by name.
"""

from __future__ import annotations

from kaito.provisioner.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    CapacityUnavailable,
    ClusterNotReady,
    InstanceBusy,
    InstanceNotFound,
    InvalidRequest,
    NotOwned,
    ProviderError,
    QuotaExceeded,
    SkuUnavailable,
    Throttled,
    Unavailable,
)
from kaito.provisioner.provider import CloudProvider, Guard, Instance, InstanceSpec, InstanceState, InstanceType, Spot
from kaito.provisioner.registry import load_provider

__all__ = [
    "AuthenticationFailed",
    "AuthorizationFailed",
    "CapacityUnavailable",
    "CloudProvider",
    "ClusterNotReady",
    "Guard",
    "Instance",
    "InstanceBusy",
    "InstanceNotFound",
    "InstanceSpec",
    "InstanceState",
    "InstanceType",
    "InvalidRequest",
    "NotOwned",
    "ProviderError",
    "QuotaExceeded",
    "SkuUnavailable",
    "Spot",
    "Throttled",
    "Unavailable",
    "load_provider",
]
