"""Who owns which field: what server-side apply merges by, and ``metadata.managedFields`` shows.

The rules are those of Kubernetes' structured merge: ``fields`` names places, ``merge`` puts values together by the topology
that their schema declares, ``owners`` moves ownership, ``tracking`` is what the API server does with all that.
"""

from __future__ import annotations

from kaito.devcluster.apiserver.managedfields.tracking import applied, track_create, track_update, untyped

__all__ = ["applied", "track_create", "track_update", "untyped"]
