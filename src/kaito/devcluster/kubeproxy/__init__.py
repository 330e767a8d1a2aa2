"""The kube-proxy of the local cluster: it listens at the addresses of Services, and passes connections on to their pods.

A userspace proxy, for Services whose address is one of loopback, as they are on Linux. Looser than kube-proxy: TCP only; no
node ports, external addresses or load balancers; traffic policies do not act; the client's address is lost. Pods that are
pretended have nothing to connect to, and a Service with no others refuses connections.
"""

from __future__ import annotations

from kaito.devcluster.kubeproxy.proxier import setup

__all__ = ["setup"]
