"""The resources that are served now, built-in and custom, and how their objects pass between storage and wire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.objects.builtins import BUILTINS, ResourceInfo
from kaito.devcluster.apiserver.objects.conversions import AUTOSCALERS_V1, EVENTS_V1, Conversion
from kaito.devcluster.apiserver.objects.fields import EVENTS_V1_LABELS, builtin_extractor
from kaito.devcluster.apiserver.schema import Schema
from kaito.devcluster.apiserver.store import NO_FIELDS, Collection, Object, Record, Store, decode, encode
from kaito.devcluster.apiserver.strategies import Strategy, builtin_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where a resource keeps what its scale subresource shows; dotted paths without a leading dot."""

    spec_replicas: str
    status_replicas: str
    selector: str = ""
    """Path of the selector as a string (custom resources); built-ins have a label selector at spec.selector."""


_CONVERSIONS = {
    ("events.k8s.io", "v1", "events"): EVENTS_V1,
    ("autoscaling", "v1", "horizontalpodautoscalers"): AUTOSCALERS_V1,
}
BUILTIN_SCALE = ScalePaths("spec.replicas", "status.replicas")


@dataclass(eq=False, slots=True)
class Kind:
    """One resource in one served version."""

    info: ResourceInfo
    schema: Schema
    strategy: Strategy
    collection: Collection
    custom: bool = False
    columns: list[dict[str, Any]] | None = None
    """Printer columns of a custom resource; None for the built-in or default ones."""
    extract: Callable[[Object], Mapping[str, str]] | None = None
    field_labels: Mapping[str, str] = field(default_factory=dict)
    """The selectable fields as this version calls them, to their stored names."""
    scale: ScalePaths | None = None
    conversion: Conversion | None = None
    ttl: float | None = None
    """Seconds after the last write when an object may be dropped."""
    terminating: bool = False
    """A custom resource whose definition is being deleted takes no new objects."""
    deprecation: str = ""
    """The warning sent with each answer."""
    _prefix: bytes = b""

    def __post_init__(self) -> None:
        self._prefix = encode({"kind": self.info.kind, "apiVersion": self.info.api_version})[:-1] + b","

    @property
    def has_status(self) -> bool:
        return "status" in self.info.subresources

    def wire(self, record: Record) -> bytes:
        """The object with its kind and API version, as JSON."""
        if self.conversion is not None:
            return encode(self.read(record))
        return self._prefix + record.body[1:]

    def item(self, record: Record) -> bytes:
        """The object as an item of a list: those of built-in lists carry neither kind nor API version."""
        if self.custom:
            return self.wire(record)
        return encode(self._converted(record)) if self.conversion is not None else record.body

    def read(self, record: Record) -> Object:
        """The object decoded; a new value each time."""
        return {"kind": self.info.kind, "apiVersion": self.info.api_version, **self._converted(record)}

    def stored_fields(self, obj: Object) -> Mapping[str, str]:
        return self.extract(obj) if self.extract is not None else NO_FIELDS

    def path(self, namespace: str, name: str) -> str:
        return f"{namespace}/{name}" if self.info.namespaced else name

    def path_of(self, obj: Object) -> str:
        metadata = obj["metadata"]
        return self.path(metadata.get("namespace", ""), metadata["name"])

    def _converted(self, record: Record) -> Object:
        body = decode(record.body)
        return self.conversion.read(body) if self.conversion is not None else body


class Registry:
    """The served kinds by group, version and plural. ``generation`` changes with every change of what is served."""

    def __init__(self, store: Store) -> None:
        self.generation = 0
        self._kinds: dict[tuple[str, str, str], Kind] = {}
        self._groups: dict[tuple[str, str], None] = {}
        self._store = store
        for info in BUILTINS:
            self._add(self._builtin(info))

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def builtin(self, group_resource: str) -> Kind:
        """The built-in kind that is stored under this name, for the server's own use."""
        return next(
            kind
            for kind in self._kinds.values()
            if not kind.custom and kind.conversion is None and kind.info.group_resource == group_resource
        )

    def serves(self, group: str, version: str) -> bool:
        return (group, version) in self._groups

    def __iter__(self) -> Iterator[Kind]:
        return iter(tuple(self._kinds.values()))

    def of_group(self, group: str) -> list[Kind]:
        return [kind for kind in self._kinds.values() if kind.info.group == group]

    def replace(self, old: Iterable[Kind], new: Iterable[Kind]) -> None:
        """Serve ``new`` instead of ``old``, in one step."""
        for kind in old:
            self._kinds.pop(_address(kind.info), None)
        for kind in new:
            self._add(kind)
        self._groups = {(kind.info.group, kind.info.version): None for kind in self._kinds.values()}
        self.generation += 1

    def _add(self, kind: Kind) -> None:
        self._kinds[_address(kind.info)] = kind
        self._groups[(kind.info.group, kind.info.version)] = None

    def _builtin(self, info: ResourceInfo) -> Kind:
        conversion = _CONVERSIONS.get(_address(info))
        events_v1 = conversion is EVENTS_V1
        storage = "events" if events_v1 else info.group_resource
        extract = builtin_extractor(storage)
        stored = extract({}) if extract is not None else NO_FIELDS
        return Kind(
            info=info,
            schema=Schema.for_builtin(info.definition),
            strategy=builtin_strategy(info.group_resource),
            collection=self._store.collection(storage),
            extract=extract,
            field_labels=EVENTS_V1_LABELS if events_v1 else {name: name for name in stored},
            scale=BUILTIN_SCALE if "scale" in info.subresources else None,
            conversion=conversion,
            ttl=3600.0 if storage == "events" else None,
        )


def _address(info: ResourceInfo) -> tuple[str, str, str]:
    return info.group, info.version, info.plural
