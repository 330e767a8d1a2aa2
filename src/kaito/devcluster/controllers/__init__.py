"""The controllers that make workloads live: plain clients of the API, which also run against a real API server.

What is looser than in kube-controller-manager and kube-scheduler is said by each module. Not here at all: CronJobs,
ReplicationControllers, HorizontalPodAutoscalers, PodDisruptionBudget status, ResourceQuota usage, node heartbeats and
eviction by taint, service load balancers, tokens and certificates, volume attachment.
"""

from __future__ import annotations

from kaito.devcluster.controllers import (
    daemonsets,
    deployments,
    endpoints,
    garbage,
    jobs,
    namespaces,
    nodes,
    podgc,
    protection,
    replicasets,
    scheduler,
    statefulsets,
    volumes,
)
from kaito.runtime import Manager

__all__ = ["setup_all"]


def setup_all(manager: Manager, authority: bytes, *, workloads: bool = True) -> None:
    """Add every controller. ``authority``: PEM certificates that pods are to trust. Without ``workloads`` only
    those by which objects go: garbage collection, namespaces, protection of claims and volumes."""
    garbage.setup(manager)
    namespaces.setup(manager, authority)
    protection.setup(manager)
    if not workloads:
        return
    for module in (
        replicasets,
        deployments,
        statefulsets,
        daemonsets,
        jobs,
        endpoints,
        scheduler,
        podgc,
        nodes,
        volumes,
    ):
        module.setup(manager)
