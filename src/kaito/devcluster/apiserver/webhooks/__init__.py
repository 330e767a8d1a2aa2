"""Admission webhooks: who is asked about a write, in which order, and what the answers mean.

Mutating webhooks are asked one after the other, in the order of their configurations' names, and those with
``reinvocationPolicy: IfNeeded`` once more where a later one has changed the object; validating ones are asked at the same
time. Looser than kube-apiserver: only create, update, patch and delete of objects, and of their status, are shown to
webhooks, not ``scale``, ``eviction``, ``binding``, ``finalize`` or ``connect``; ``matchConditions`` have no ``authorizer``; a
deletion of a collection asks for no object.
"""

from __future__ import annotations

from kaito.devcluster.apiserver.webhooks.admission import Webhooks

__all__ = ["Webhooks"]
