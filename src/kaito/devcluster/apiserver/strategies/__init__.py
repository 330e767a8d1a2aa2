"""Per-kind rules of the built-in resources: what clients can observe of their defaults, validation and immutability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.strategies import core, extensions, policies, volumes, workloads
from kaito.devcluster.apiserver.strategies.base import CustomStrategy, GenerationStrategy, Strategy
from kaito.devcluster.apiserver.strategies.pods import PodStrategy
from kaito.devcluster.apiserver.strategies.services import ServiceStrategy

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CustomStrategy", "Strategy", "builtin_strategy"]

_STRATEGIES: Mapping[str, type[Strategy]] = {
    "pods": PodStrategy,
    "services": ServiceStrategy,
    "namespaces": core.NamespaceStrategy,
    "nodes": core.NodeStrategy,
    "configmaps": core.ConfigMapStrategy,
    "secrets": core.SecretStrategy,
    "serviceaccounts": core.ServiceAccountStrategy,
    "endpoints": core.EndpointsStrategy,
    "events": core.EventStrategy,
    "events.events.k8s.io": core.EventStrategy,
    "persistentvolumeclaims": volumes.PersistentVolumeClaimStrategy,
    "persistentvolumes": volumes.PersistentVolumeStrategy,
    "replicationcontrollers": workloads.ReplicationControllerStrategy,
    "deployments.apps": workloads.DeploymentStrategy,
    "replicasets.apps": workloads.WorkloadStrategy,
    "statefulsets.apps": workloads.StatefulSetStrategy,
    "daemonsets.apps": workloads.DaemonSetStrategy,
    "controllerrevisions.apps": workloads.ControllerRevisionStrategy,
    "jobs.batch": workloads.JobStrategy,
    "cronjobs.batch": workloads.CronJobStrategy,
    "leases.coordination.k8s.io": core.LeaseStrategy,
    "endpointslices.discovery.k8s.io": core.EndpointSliceStrategy,
    "poddisruptionbudgets.policy": policies.PodDisruptionBudgetStrategy,
    "priorityclasses.scheduling.k8s.io": policies.PriorityClassStrategy,
    "networkpolicies.networking.k8s.io": policies.NetworkPolicyStrategy,
    "ingresses.networking.k8s.io": GenerationStrategy,
    "horizontalpodautoscalers.autoscaling": policies.AutoscalerStrategy,
    "storageclasses.storage.k8s.io": volumes.StorageClassStrategy,
    "roles.rbac.authorization.k8s.io": policies.RoleStrategy,
    "clusterroles.rbac.authorization.k8s.io": policies.RoleStrategy,
    "rolebindings.rbac.authorization.k8s.io": policies.RoleBindingStrategy,
    "clusterrolebindings.rbac.authorization.k8s.io": policies.RoleBindingStrategy,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": extensions.WebhookConfigurationStrategy,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": extensions.WebhookConfigurationStrategy,
    "customresourcedefinitions.apiextensions.k8s.io": extensions.DefinitionStrategy,
}


def builtin_strategy(group_resource: str) -> Strategy:
    return _STRATEGIES.get(group_resource, Strategy)()
