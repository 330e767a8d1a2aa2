"""CustomResourceDefinitions: what a stored definition makes the server serve.

A definition takes effect in the write that stores it; its conditions follow as a second revision, as they do where
controllers set them. Objects of several versions are stored once and change only their apiVersion between versions.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.objects.builtins import ALL_VERBS, ResourceInfo, SubresourceInfo
from kaito.devcluster.apiserver.objects.fields import custom_extractor
from kaito.devcluster.apiserver.objects.registry import Kind, Registry, ScalePaths
from kaito.devcluster.apiserver.schema import Schema
from kaito.devcluster.apiserver.store import same
from kaito.devcluster.apiserver.strategies import CustomStrategy
from kaito.devcluster.apiserver.strategies.extensions import CLEANUP_FINALIZER
from kaito.devcluster.apiserver.verbs.deletes import DeleteOptions, Deleter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.devcluster.apiserver.store import Object, Store
    from kaito.devcluster.apiserver.verbs.writes import Writer

RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
_READ_WRITE = ("get", "patch", "update")


class Definitions:
    """Keeps the registry in step with the stored definitions."""

    def __init__(self, registry: Registry, store: Store, writer: Writer, deleter: Deleter) -> None:
        self._registry = registry
        self._store = store
        self._writer = writer
        self._deleter = deleter
        self._kind = registry.builtin(RESOURCE)
        self._served: dict[str, list[Kind]] = {}
        writer.listeners.append(self._changed)

    def schemas(self, group: str, version: str) -> dict[str, Object]:
        """The schemas of the custom kinds of a group version, by kind."""
        return {
            kind.info.kind: kind.schema.raw
            for kind in self._registry.of_group(group)
            if kind.custom and kind.info.version == version
        }

    def _changed(self, kind: Kind, old: Object | None, new: Object | None) -> None:
        if kind is self._kind:
            self._definition_changed(old, new)
        elif kind.custom and kind.terminating and new is None and not len(kind.collection):
            self._release(kind.collection.name)

    def _definition_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._withdraw(old["metadata"]["name"])
            return
        name = new["metadata"]["name"]
        if old is None or not same(old["spec"], new["spec"]):
            self._establish(name, new)
        if "deletionTimestamp" in new["metadata"] and CLEANUP_FINALIZER in (new["metadata"].get("finalizers") or ()):
            self._terminate(name)

    def _establish(self, name: str, definition: Object) -> None:
        conflicts = self._conflicts(name, definition["spec"])
        if conflicts:
            reason, message = conflicts[0]
            self._set_status(
                name,
                None,
                {
                    "NamesAccepted": ("False", reason, message),
                    "Established": ("False", "NotAccepted", "not all names are accepted"),
                },
            )
            return
        kinds = custom_kinds(definition, self._store)
        self._registry.replace(self._served.get(name, ()), kinds)
        self._served[name] = kinds
        self._set_status(
            name,
            definition["spec"]["names"],
            {
                "NamesAccepted": ("True", "NoConflicts", "no conflicts found"),
                "Established": ("True", "InitialNamesAccepted", "the initial names have been accepted"),
            },
        )

    def _conflicts(self, name: str, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Names that another resource of the group has, with the reason to say so."""
        others = [kind.info for kind in self._registry.of_group(spec["group"]) if kind.collection.name != name]
        names = spec["names"]
        taken = {text for info in others for text in (info.plural, info.singular, *info.short_names)}
        kinds = {text for info in others for text in (info.kind, info.list_kind)}
        wanted = [("SingularConflict", names.get("singular", ""), taken), ("KindConflict", names["kind"], kinds)]
        wanted += [("ShortNamesConflict", text, taken) for text in names.get("shortNames") or ()]
        wanted += [("ListKindConflict", names.get("listKind", ""), kinds)]
        return [(reason, f'"{text}" is already in use') for reason, text, used in wanted if text and text in used]

    def _terminate(self, name: str) -> None:
        for kind in self._served.get(name, ()):
            if kind.terminating:
                return
            kind.terminating = True
        self._set_status(
            name,
            None,
            {"Terminating": ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")},
        )
        kinds = self._served.get(name, ())
        if kinds:
            for record in tuple(kinds[0].collection):
                self._deleter.delete(kinds[0], record, DeleteOptions())
            if len(kinds[0].collection):
                return
        self._release(name)

    def _release(self, name: str) -> None:
        """Let go of a definition whose last object is gone."""
        record = self._kind.collection.get(name)
        if record is None:
            return
        old, new = self._kind.read(record), self._kind.read(record)
        kept = [item for item in new["metadata"].get("finalizers") or () if item != CLEANUP_FINALIZER]
        new["metadata"].pop("finalizers", None)
        if kept:
            new["metadata"]["finalizers"] = kept
        self._writer.store(self._kind, record, new, old)

    def _withdraw(self, name: str) -> None:
        self._registry.replace(self._served.pop(name, ()), ())
        if name in self._store.collections:
            self._store.drop(name)

    def _set_status(
        self, name: str, accepted: Mapping[str, Any] | None, conditions: Mapping[str, tuple[str, str, str]]
    ) -> None:
        record = self._kind.collection.get(name)
        if record is None:
            return
        old, new = self._kind.read(record), self._kind.read(record)
        status = new["status"]
        if accepted is not None:
            status["acceptedNames"] = dict(accepted)
        held = {condition["type"]: condition for condition in status.get("conditions") or ()}
        for kind, (value, reason, message) in conditions.items():
            before = held.get(kind)
            since = meta.timestamp(self._writer.clock())
            if before is not None and before["status"] == value:
                since = before["lastTransitionTime"]
            held[kind] = {
                "type": kind,
                "status": value,
                "lastTransitionTime": since,
                "reason": reason,
                "message": message,
            }
        status["conditions"] = list(held.values())
        self._writer.store(self._kind, record, new, old)


def custom_kinds(definition: Mapping[str, Any], store: Store) -> list[Kind]:
    """The kinds that a definition's served versions make."""
    spec = definition["spec"]
    versions = [version for version in spec["versions"] if version.get("served")]
    collection = store.collection(f"{spec['names']['plural']}.{spec['group']}")
    paths = tuple(
        dict.fromkeys(
            field["jsonPath"].lstrip(".") for version in versions for field in version.get("selectableFields") or ()
        )
    )
    extract = custom_extractor(paths) if paths else None
    return [
        Kind(
            info=_info(spec, version),
            schema=Schema.for_crd(
                version["schema"]["openAPIV3Schema"], preserve_unknown=bool(spec.get("preserveUnknownFields"))
            ),
            strategy=CustomStrategy(),
            collection=collection,
            custom=True,
            columns=version.get("additionalPrinterColumns") or None,
            extract=extract,
            field_labels={
                path: path
                for path in (field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ())
            },
            scale=_scale((version.get("subresources") or {}).get("scale")),
            deprecation=_deprecation(spec, version),
        )
        for version in versions
    ]


def _info(spec: Mapping[str, Any], version: Mapping[str, Any]) -> ResourceInfo:
    names, group = spec["names"], spec["group"]
    declared = version.get("subresources") or {}
    subresources = {}
    if "scale" in declared:
        subresources["scale"] = SubresourceInfo("Scale", "autoscaling", "v1", _READ_WRITE)
    if "status" in declared:
        subresources["status"] = SubresourceInfo(names["kind"], group, version["name"], _READ_WRITE)
    return ResourceInfo(
        group=group,
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names["singular"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        verbs=ALL_VERBS,
        subresources=MappingProxyType(subresources),
        list_kind=names["listKind"],
    )


def _scale(declared: Mapping[str, str] | None) -> ScalePaths | None:
    if declared is None:
        return None
    return ScalePaths(
        declared["specReplicasPath"].lstrip("."),
        declared["statusReplicasPath"].lstrip("."),
        (declared.get("labelSelectorPath") or "").lstrip("."),
    )


def _deprecation(spec: Mapping[str, Any], version: Mapping[str, Any]) -> str:
    if not version.get("deprecated"):
        return ""
    stock = f"{spec['group']}/{version['name']} {spec['names']['kind']} is deprecated"
    return str(version.get("deprecationWarning") or stock)
