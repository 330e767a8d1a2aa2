"""Per-kind rules of the built-in resources: what clients can observe of their defaults, validation and immutability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.strategies import objects, workloads
from kaito.devcluster.apiserver.strategies.base import CustomStrategy, Strategy
from kaito.devcluster.apiserver.strategies.pods import PodStrategy
from kaito.devcluster.apiserver.strategies.services import ServiceStrategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.devcluster.apiserver.builtins import ResourceInfo

__all__ = ["CustomStrategy", "Strategy", "builtin_strategy"]

_STRATEGIES: Mapping[str, type[Strategy]] = {
    "pods": PodStrategy,
    "services": ServiceStrategy,
    "namespaces": objects.NamespaceStrategy,
    "nodes": objects.NodeStrategy,
    "configmaps": objects.ConfigMapStrategy,
    "secrets": objects.SecretStrategy,
    "serviceaccounts": objects.ServiceAccountStrategy,
    "endpoints": objects.EndpointsStrategy,
    "events": objects.EventStrategy,
    "events.events.k8s.io": objects.EventStrategy,
    "persistentvolumeclaims": objects.PersistentVolumeClaimStrategy,
    "persistentvolumes": objects.PersistentVolumeStrategy,
    "replicationcontrollers": workloads.ReplicationControllerStrategy,
    "deployments.apps": workloads.DeploymentStrategy,
    "replicasets.apps": workloads.WorkloadStrategy,
    "statefulsets.apps": workloads.StatefulSetStrategy,
    "daemonsets.apps": workloads.DaemonSetStrategy,
    "controllerrevisions.apps": workloads.ControllerRevisionStrategy,
    "jobs.batch": workloads.JobStrategy,
    "cronjobs.batch": workloads.CronJobStrategy,
    "leases.coordination.k8s.io": objects.LeaseStrategy,
    "endpointslices.discovery.k8s.io": objects.EndpointSliceStrategy,
    "poddisruptionbudgets.policy": objects.PodDisruptionBudgetStrategy,
    "priorityclasses.scheduling.k8s.io": objects.PriorityClassStrategy,
    "networkpolicies.networking.k8s.io": objects.NetworkPolicyStrategy,
    "ingresses.networking.k8s.io": objects.GenerationStrategy,
    "horizontalpodautoscalers.autoscaling": objects.AutoscalerStrategy,
    "storageclasses.storage.k8s.io": objects.StorageClassStrategy,
    "roles.rbac.authorization.k8s.io": objects.RoleStrategy,
    "clusterroles.rbac.authorization.k8s.io": objects.RoleStrategy,
    "rolebindings.rbac.authorization.k8s.io": objects.RoleBindingStrategy,
    "clusterrolebindings.rbac.authorization.k8s.io": objects.RoleBindingStrategy,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": objects.WebhookConfigurationStrategy,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": objects.WebhookConfigurationStrategy,
    "customresourcedefinitions.apiextensions.k8s.io": objects.DefinitionStrategy,
}


def builtin_strategy(info: ResourceInfo) -> Strategy:
    return _STRATEGIES.get(info.group_resource, Strategy)()
