"""Field selectors: which fields of which resource can be selected by, and the selection that lists and watches share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.runtime import BadRequest, FieldSelector, LabelSelector

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Object, Record

OBJECT_FIELDS = ("metadata.name", "metadata.namespace")

_INVOLVED = tuple(
    f"involvedObject.{name}"
    for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)

BUILTIN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "services": ("spec.clusterIP", "spec.type"),
    "events": (*_INVOLVED, "reason", "reportingComponent", "source", "type"),
    "jobs.batch": ("status.successful",),
    "replicasets.apps": ("status.replicas",),
    "replicationcontrollers": ("status.replicas",),
}
"""By ``plural.group``: the fields beside name and namespace, named as the storage version names them."""

EVENTS_V1_LABELS: Mapping[str, str] = {
    "reason": "reason",
    "type": "type",
    "reportingController": "reportingComponent",
    **{field.replace("involvedObject", "regarding"): field for field in _INVOLVED},
}
"""What events.k8s.io/v1 calls the selectable fields of an event, and the name under which they are stored."""

_BOOLEAN = frozenset({"spec.unschedulable", "spec.hostNetwork"})
_NUMBER = frozenset({"status.successful", "status.replicas"})


def value_at(obj: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where a step is missing."""
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def builtin_extractor(group_resource: str) -> Callable[[Object], Mapping[str, str]] | None:
    names = BUILTIN_FIELDS.get(group_resource)
    if names is None:
        return None

    def extract(obj: Object) -> Mapping[str, str]:
        values = {name: _text(name, value_at(obj, name)) for name in names}
        if "status.successful" in values:
            values["status.successful"] = str(value_at(obj, "status.succeeded") or 0)
        if "source" in values:
            values["source"] = _text("source", value_at(obj, "source.component")) or values["reportingComponent"]
        return values

    return extract


def custom_extractor(paths: tuple[str, ...]) -> Callable[[Object], Mapping[str, str]]:
    """The extractor for the ``selectableFields`` of a custom resource, given without their leading dot."""

    def extract(obj: Object) -> Mapping[str, str]:
        return {path: _text(path, value_at(obj, path)) for path in paths}

    return extract


def _text(name: str, value: Any) -> str:
    if name in _BOOLEAN or isinstance(value, bool):
        return "true" if value else "false"
    if name in _NUMBER:
        return str(value or 0)
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list, a watch or a deletecollection is about."""

    namespace: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None

    @property
    def filtered(self) -> bool:
        """Whether a selector is in force, beyond the namespace."""
        return bool(self.labels) or bool(self.fields)

    def matches(self, record: Record) -> bool:
        if self.namespace and not record.path.startswith(f"{self.namespace}/"):
            return False
        if self.labels and not self.labels.matches(record.labels):
            return False
        return not self.fields or self.fields.matches(lambda field: _field(record, field))

    @staticmethod
    def parse(
        namespace: str, labels: str, fields: str, *, known: Mapping[str, str], custom: bool, name: str = ""
    ) -> Selection:
        """The selection of a query. ``known`` maps the field names that may be asked for to the stored ones.

        Raises BadRequest on a selector that does not parse or names an unknown field.
        """
        try:
            label_selector = LabelSelector.parse(labels) if labels else None
            field_selector = FieldSelector.parse(fields) if fields else None
        except ValueError as error:
            raise BadRequest(str(error)) from error
        terms = []
        for term in field_selector.terms if field_selector else ():
            stored = term.field if term.field in OBJECT_FIELDS else known.get(term.field)
            if stored is None:
                raise BadRequest(
                    f"field label not supported: {term.field}"
                    if known or custom
                    else f'"{term.field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
                )
            terms.append(type(term)(stored, term.value, term.negated))
        selector = FieldSelector(tuple(terms))
        if name:
            wanted = selector.value("metadata.name")
            if wanted is not None and wanted != name:
                raise BadRequest(f"field selector metadata.name={wanted} contradicts the requested name {name}")
            selector = FieldSelector((*terms, *FieldSelector.parse(f"metadata.name={name}").terms))
        return Selection(namespace, label_selector, selector or None)


def _field(record: Record, field: str) -> str:
    if field == "metadata.name":
        return record.name
    if field == "metadata.namespace":
        return record.namespace
    return record.fields.get(field, "")
