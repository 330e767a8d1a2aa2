"""Label keys, annotation keys, finalizers and node taints that kaito reads or writes."""

from __future__ import annotations

from typing import Final

WORKSPACE: Final = "kaito.sh/workspace"
"""Label of Machines, workload pods and their selectors: the Workspace's name."""
WORKSPACE_NAMESPACE: Final = "kaito.sh/workspacenamespace"
"""Label of Machines: the Workspace's namespace."""
RAG_ENGINE: Final = "kaito.sh/ragengine"
"""Label of Machines made for a RAGEngine."""
ENABLE_LOAD_BALANCER: Final = "kaito.sh/enablelb"
"""Annotation that a user sets on a Workspace: ``true`` asks for a Service of type LoadBalancer."""
WORKSPACE_HASH: Final = "workspace.kaito.io/hash"
"""Annotation of Workspace and ControllerRevision: sha256 of resource, inference and tuning, in hex."""
WORKSPACE_REVISION: Final = "workspace.kaito.io/revision"
"""Annotation of Workspace and workloads: the decimal revision number."""
REVISION_OWNER: Final = "workspace.kaito.io/name"
"""Label of ControllerRevisions: the Workspace's name."""
MACHINE_TYPE: Final = "kaito.sh/machine-type"
"""Label of nodes and requirement of Machines: ``gpu`` or ``cpu``."""
CREATION_TIMESTAMP: Final = "kaito.sh/creation-timestamp"
"""Label of agent pools: when the Machine was made, as ``YYYY-MM-DDTHH-MM-SSZ`` in UTC."""
MACHINE_UID: Final = "kaito.sh/machine-uid"
"""Label of agent pools and their nodes: the uid of the Machine that they were made for."""
ACCELERATOR: Final = "accelerator"
"""Label of GPU nodes, which the NVIDIA device plug-in's DaemonSet selects."""
ACCELERATOR_NVIDIA: Final = "nvidia"

PROVISIONER_NAME: Final = "karpenter.sh/provisioner-name"
PROVISIONER_DEFAULT: Final = "default"
NODE_REGISTERED: Final = "karpenter.sh/registered"
NODE_INITIALIZED: Final = "karpenter.sh/initialized"

INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
EXCLUDE_FROM_LOAD_BALANCERS: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
ARCH: Final = "kubernetes.io/arch"
OS: Final = "kubernetes.io/os"
AZURE_ZONE: Final = "karpenter.k8s.azure/zone"
AKS_AGENT_POOL: Final = "kubernetes.azure.com/agentpool"

WORKSPACE_FINALIZER: Final = "workspace.finalizer.kaito.sh"
TERMINATION_FINALIZER: Final = "karpenter.sh/termination"
"""Finalizer of Machines and of the Nodes that belong to them."""

NVIDIA_GPU: Final = "nvidia.com/gpu"
"""Extended resource: whole GPUs, announced by the NVIDIA device plug-in."""

SKU_TAINT_KEY: Final = "sku"
SKU_TAINT_VALUE: Final = "gpu"
NO_SCHEDULE: Final = "NoSchedule"
