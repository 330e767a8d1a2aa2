"""A Kubernetes API server in one process, for development and tests.

It speaks the wire protocol of Kubernetes 1.32 over TLS on loopback, keeps its state in memory, and aims to be honest:
what passes here passes on a real server. Where it falls short it answers 501 or is listed here.

Not implemented, and refused: exec, the proxy of nodes, protobuf and CBOR replies, the deprecated ``/watch/`` paths.

Looser than a real server:

* ``managedFields`` are kept for the objects that somebody has applied server-side, from then on. What an object was by then
  belongs to ``before-first-apply``, and what ``kubectl apply`` noted to ``kubectl-client-side-apply``.
* Webhooks are not asked about connections; ResourceQuota and LimitRanger do not act; the ServiceAccount plugin
  only fills in the account's name.
* RBAC has no escalation check, and ``aggregationRule`` does not act.
* Duplicate JSON keys are not reported by ``fieldValidation``.
* Built-in kinds are checked for types, required fields and the rules that clients commonly meet, not for all.
* Custom resources are neither pruned nor defaulted anew when read through another version or a changed schema, and
  conversion webhooks are not called. CRD names in protected groups need no approval annotation.
* PUT never creates. A null within a list of a built-in object is refused.
* Protobuf bodies are read for the kinds that kubectl creates directly, and for workloads.
* The anonymous get 401 everywhere but on health and version; a stock server answers some of that with 403.
* Lists of an exact resource version reach back as far as the window of changes, not five minutes.
* Events expire after an hour at a pace of one sweep a minute.
"""

from __future__ import annotations

from kaito.devcluster.apiserver.auth.identity import User
from kaito.devcluster.apiserver.connect.attach import Attachment, AttachOptions, AttachProvider
from kaito.devcluster.apiserver.serving.faults import Fault
from kaito.devcluster.apiserver.serving.server import ApiServer, ApiServerOptions
from kaito.devcluster.apiserver.store import Backup
from kaito.devcluster.apiserver.verbs.subresources import LogOptions, LogProvider

__all__ = [
    "ApiServer",
    "ApiServerOptions",
    "AttachOptions",
    "AttachProvider",
    "Attachment",
    "Backup",
    "Fault",
    "LogOptions",
    "LogProvider",
    "User",
]
