"""kaito: the Kubernetes AI toolchain operator.

A user applies one Workspace; the operator provisions GPU nodes, runs the model or trains an adapter, and says in the
Workspace's status how far it is.
"""
