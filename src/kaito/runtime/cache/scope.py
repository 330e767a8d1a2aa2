"""Which objects of a resource an informer holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import Stored


class Scope(NamedTuple):
    """Which objects of a resource an informer holds."""

    namespace: str = ""
    labels: LabelSelector = LabelSelector()
    fields: FieldSelector = FieldSelector()

    def query(self) -> dict[str, str]:
        query = {}
        if self.labels:
            query["labelSelector"] = str(self.labels)
        if self.fields:
            query["fieldSelector"] = str(self.fields)
        return query

    def covers(self, stored: Stored[Any]) -> bool:
        """Whether an object belongs here. Objects written by this process are judged by this; the server judges the rest."""
        key = stored.key
        if self.namespace and key.namespace != self.namespace:
            return False
        if not self.labels.matches(stored.labels):
            return False
        known = {"metadata.name": key.name, "metadata.namespace": key.namespace}
        return all(term.field in known for term in self.fields.terms) and self.fields.matches(known.__getitem__)
