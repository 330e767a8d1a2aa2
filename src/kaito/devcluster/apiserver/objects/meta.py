"""Object metadata: the fields that the server owns, and the errors that name an object."""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.schema.names import (
    QUALIFIED_NAME_MESSAGE,
    validate_labels,
    validate_name,
    validate_qualified_name,
)
from kaito.devcluster.apiserver.store import Object, encode
from kaito.runtime import AlreadyExists, BadRequest, Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from kaito.devcluster.apiserver.objects.builtins import ResourceInfo
    from kaito.devcluster.apiserver.objects.registry import Kind

NAME_SUFFIX = 5
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Without vowels and look-alikes, as kube-apiserver draws them, so that no word comes out."""
MAX_GENERATED_BASE = 63 - NAME_SUFFIX
MAX_ANNOTATIONS = 256 * 1024


def utc_now() -> datetime:
    return datetime.now(UTC)


def timestamp(time: datetime) -> str:
    """RFC 3339 in whole seconds, as ``metav1.Time``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    return str(uuid.uuid4())


def generated_name(base: str) -> str:
    suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(NAME_SUFFIX))
    return base[:MAX_GENERATED_BASE] + suffix


def qualified_kind(info: ResourceInfo) -> str:
    return f"{info.kind}.{info.group}" if info.group else info.kind


def details(info: ResourceInfo, name: str, *, kind: bool = False) -> dict[str, Any]:
    """``Status.details`` that name an object; by resource, or with ``kind`` by kind as for Invalid."""
    return details_of(info.group, info.kind if kind else info.plural, name)


def details_of(group: str, kind: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = {"name": name} if name else {}
    if group:
        value["group"] = group
    return value | {"kind": kind}


def not_found(info: ResourceInfo, name: str) -> NotFound:
    return NotFound(f'{info.group_resource} "{name}" not found', details=details(info, name))


def already_exists(info: ResourceInfo, name: str) -> AlreadyExists:
    return AlreadyExists(f'{info.group_resource} "{name}" already exists', details=details(info, name))


def conflict(info: ResourceInfo, name: str, why: str) -> Conflict:
    return Conflict(
        f'Operation cannot be fulfilled on {info.group_resource} "{name}": {why}', details=details(info, name)
    )


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def invalid(info: ResourceInfo, name: str, causes: Iterable[Cause]) -> Invalid:
    """The 422 that lists every cause, in the wording of ``errors.NewInvalid``."""
    return _invalid(f'{qualified_kind(info)} "{name}"', details(info, name, kind=True), causes)


def _invalid(what: str, named: Mapping[str, Any], causes: Iterable[Cause]) -> Invalid:
    causes = list(dict.fromkeys(causes))
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    summary = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    return Invalid(
        f"{what} is invalid: {summary}",
        details={
            **named,
            "causes": [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes],
        },
    )


def invalid_options(kind: str, causes: Iterable[Cause]) -> Invalid:
    """The 422 for the parameters of a request, such as ``PatchOptions``."""
    return _invalid(f'{kind}.meta.k8s.io ""', details_of("meta.k8s.io", kind, ""), causes)


def check_type(obj: Any, kind: Kind) -> Object:
    """``obj`` as an object of ``kind``, with a metadata mapping. Raises BadRequest when it is something else."""
    return check_gvk(obj, kind.info.api_version, kind.info.kind)


def check_gvk(obj: Any, api_version: str, kind: str) -> Object:
    if not isinstance(obj, dict):
        raise BadRequest(f"the object provided is unrecognized: expected an object of kind {kind}")
    if not obj.get("kind"):
        raise BadRequest(f"Object 'Kind' is missing in '{encode(obj).decode()[:256]}'")
    if not obj.get("apiVersion"):
        raise BadRequest(f"Object 'apiVersion' is missing in '{encode(obj).decode()[:256]}'")
    if obj["apiVersion"] != api_version:
        raise BadRequest(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version ({api_version})"
        )
    if obj["kind"] != kind:
        raise BadRequest(f"the kind in the data ({obj['kind']}) does not match the expected kind ({kind})")
    metadata = obj.get("metadata")
    if metadata is None:
        obj["metadata"] = {}
    elif not isinstance(metadata, dict):
        raise BadRequest(f"{kind} cannot be handled: metadata must be an object")
    return obj


def prepare_create(obj: Object, kind: Kind, namespace: str, name: str, now: datetime) -> None:
    """Fill in the metadata of a new object. ``name`` is that of the URL, if it has one. Raises BadRequest."""
    metadata = _clean(obj["metadata"])
    settle_place(metadata, kind, namespace, name)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generated_name(metadata["generateName"])
    for owned in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(owned, None)
    metadata["uid"] = new_uid()
    metadata["creationTimestamp"] = timestamp(now)
    if kind.strategy.generation:
        metadata["generation"] = 1
    obj["metadata"] = _ordered(metadata)


_LEADING = ("name", "generateName", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp")


def _ordered(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in _LEADING if name in metadata} | metadata


def drop_nulls(value: Any, free_form: Collection[str]) -> None:
    """Take null fields out, in place: a Go server decodes them to what an absent field is.

    The content of fields named in ``free_form`` is left alone. Raises BadRequest for null in a list.
    """
    if isinstance(value, dict):
        for name in [name for name, item in value.items() if item is None]:
            del value[name]
        for name, item in value.items():
            if name not in free_form:
                drop_nulls(item, free_form)
    elif isinstance(value, list):
        for item in value:
            if item is None:
                raise BadRequest("the object provided is unrecognized: a list may not contain null")
            drop_nulls(item, free_form)


def settle_place(metadata: dict[str, Any], kind: Kind, namespace: str, name: str) -> None:
    """Name and namespace of the body must be those of the URL or absent."""
    if kind.info.namespaced:
        if metadata.get("namespace") and metadata["namespace"] != namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if name:
        if metadata.get("name") and metadata["name"] != name:
            raise BadRequest(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
        metadata["name"] = name


def prepare_update(obj: Object, old: Object) -> None:
    """Restore the metadata that clients cannot change."""
    metadata, before = _clean(obj["metadata"]), old["metadata"]
    for owned in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
    ):
        metadata.pop(owned, None)
        if owned in before:
            metadata[owned] = before[owned]
    metadata["resourceVersion"] = before["resourceVersion"]
    obj["metadata"] = _ordered(metadata)


def _clean(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields that are empty."""
    return {name: value for name, value in metadata.items() if value not in (None, {}, [])}


def validate_metadata(obj: Object, kind: Kind) -> list[Cause]:
    metadata = obj["metadata"]
    causes = []
    name = metadata.get("name", "")
    if wrong := validate_name(name, kind.strategy.name_rule):
        causes.append(Cause.invalid("metadata.name", name, wrong))
    causes += validate_labels(metadata.get("labels") or {}, "metadata.labels")
    annotations = metadata.get("annotations") or {}
    causes += [
        Cause.invalid("metadata.annotations", key, wrong)
        for key in annotations
        if (wrong := validate_qualified_name(key.lower()))
    ]
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        causes.append(Cause.too_long("metadata.annotations", MAX_ANNOTATIONS))
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if not isinstance(finalizer, str) or validate_qualified_name(finalizer):
            causes.append(Cause.invalid(f"metadata.finalizers[{index}]", finalizer, QUALIFIED_NAME_MESSAGE))
    controllers = 0
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        field = f"metadata.ownerReferences[{index}]"
        causes += [
            Cause.required(f"{field}.{part}") for part in ("apiVersion", "kind", "name", "uid") if not owner.get(part)
        ]
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        causes.append(
            Cause.invalid(
                "metadata.ownerReferences",
                metadata["ownerReferences"],
                "Only one reference can have Controller set to true",
            )
        )
    return causes


def validate_metadata_update(obj: Object, old: Object) -> list[Cause]:
    """Finalizers may only shrink once an object is being deleted."""
    metadata, before = obj["metadata"], old["metadata"]
    if "deletionTimestamp" not in before:
        return []
    added = [f for f in metadata.get("finalizers") or () if f not in (before.get("finalizers") or ())]
    if not added:
        return []
    return [
        Cause.forbidden(
            "metadata.finalizers",
            "no new finalizers can be added if the object is being deleted, found new finalizers "
            f"[]string{{{', '.join(f'{chr(34)}{name}{chr(34)}' for name in added)}}}",
        )
    ]
