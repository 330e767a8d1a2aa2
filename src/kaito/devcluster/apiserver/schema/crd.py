"""Whether a CustomResourceDefinition can be served."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from kaito.devcluster.apiserver.schema.cause import Cause
from kaito.devcluster.apiserver.schema.jsonpath import JsonPath, JsonPathError
from kaito.devcluster.apiserver.schema.structure import structural_causes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Object = dict[str, Any]

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL_HINT: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_SELECTABLE_TYPES: Final = ("boolean", "integer", "string")


def validate_crd(crd: Object) -> list[Cause]:
    """What is wrong with a CRD, in field order; an empty list when it can be served as it stands."""
    spec = crd.get("spec")
    if not isinstance(spec, dict):
        return [Cause.required("spec")]
    return [*_name_causes(crd, spec), *_version_list_causes(spec), *_conversion_causes(spec)]


def _name_causes(crd: Object, spec: Object) -> Iterator[Cause]:
    group, names = str(spec.get("group", "")), spec.get("names") or {}
    plural = str(names.get("plural", ""))
    expected = f"{plural}.{group}"
    name = str((crd.get("metadata") or {}).get("name", ""))
    if group and plural and name != expected:
        yield Cause.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    if not group:
        yield Cause.required("spec.group")
    elif not _SUBDOMAIN.match(group):
        yield Cause.invalid("spec.group", group, "must be a lower case RFC 1123 subdomain")
    elif "." not in group:
        yield Cause.invalid("spec.group", group, "should be a domain with at least one dot")
    scope = spec.get("scope", "")
    if not scope:
        yield Cause.required("spec.scope")
    elif scope not in ("Cluster", "Namespaced"):
        yield Cause.not_supported("spec.scope", scope, ("Cluster", "Namespaced"))
    if not plural:
        yield Cause.required("spec.names.plural")
    elif not _LABEL.match(plural):
        yield Cause.invalid("spec.names.plural", plural, _LABEL_HINT)
    kind = str(names.get("kind", ""))
    if not kind:
        yield Cause.required("spec.names.kind")
    elif not _LABEL.match(kind.lower()):
        yield Cause.invalid("spec.names.kind", kind, f"may have mixed case, but should otherwise match: {_LABEL_HINT}")
    singular = names.get("singular")
    if singular and not _LABEL.match(singular):
        yield Cause.invalid("spec.names.singular", singular, _LABEL_HINT)
    for index, short in enumerate(names.get("shortNames") or ()):
        if not _LABEL.match(short):
            yield Cause.invalid(f"spec.names.shortNames[{index}]", short, _LABEL_HINT)
    list_kind = names.get("listKind")
    if list_kind and list_kind == kind:
        yield Cause.invalid("spec.names.listKind", list_kind, "kind and listKind may not be the same")
    if spec.get("preserveUnknownFields") is True:
        yield Cause.invalid(
            "spec.preserveUnknownFields",
            True,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        )


def _version_list_causes(spec: Object) -> Iterator[Cause]:
    versions = spec.get("versions") or []
    if not versions:
        yield Cause.required("spec.versions")
        return
    seen: set[str] = set()
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        name = str(version.get("name", ""))
        if not name:
            yield Cause.required(f"{path}.name")
        elif not _LABEL.match(name):
            yield Cause.invalid(f"{path}.name", name, _LABEL_HINT)
        elif name in seen:
            yield Cause.invalid(f"{path}.name", name, "must be unique")
        seen.add(name)
        yield from _version_causes(version, path)
    stored = [version for version in versions if version.get("storage") is True]
    if len(stored) != 1:
        names = [str(version.get("name", "")) for version in versions]
        yield Cause.invalid("spec.versions", names, "must have exactly one version marked as storage version")


def _version_causes(version: Object, path: str) -> Iterator[Cause]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    place = f"{path}.schema.openAPIV3Schema"
    if not isinstance(schema, dict):
        yield Cause.required(place, "schemas are required")
    else:
        yield from structural_causes(schema, place)
    yield from _subresource_causes(version.get("subresources") or {}, f"{path}.subresources")
    yield from _column_causes(version.get("additionalPrinterColumns") or (), f"{path}.additionalPrinterColumns")
    if isinstance(schema, dict):
        yield from _selectable_causes(version.get("selectableFields") or (), schema, f"{path}.selectableFields")


def _subresource_causes(subresources: Object, path: str) -> Iterator[Cause]:
    scale = subresources.get("scale")
    if scale is None:
        return
    for field, prefix, required in (
        ("specReplicasPath", ".spec.", True),
        ("statusReplicasPath", ".status.", True),
        ("labelSelectorPath", (".spec.", ".status."), False),
    ):
        value = str(scale.get(field, ""))
        if not value:
            if required:
                yield Cause.required(f"{path}.scale.{field}")
        elif not value.startswith(prefix):
            allowed = prefix if isinstance(prefix, str) else " or ".join(prefix)
            yield Cause.invalid(
                f"{path}.scale.{field}", value, f"should be a json path under {allowed.replace('. ', ' ')}"
            )


def _column_causes(columns: Sequence[Object], path: str) -> Iterator[Cause]:
    for index, column in enumerate(columns):
        place = f"{path}[{index}]"
        if not column.get("name"):
            yield Cause.required(f"{place}.name")
        if not column.get("type"):
            yield Cause.required(f"{place}.type", f"must be one of {','.join(_COLUMN_TYPES)}")
        elif column["type"] not in _COLUMN_TYPES:
            yield Cause.invalid(f"{place}.type", column["type"], f"must be one of {','.join(_COLUMN_TYPES)}")
        text = str(column.get("jsonPath", ""))
        if not text:
            yield Cause.required(f"{place}.jsonPath")
            continue
        if not text.startswith("."):
            yield Cause.invalid(f"{place}.jsonPath", text, "must be a simple json path starting with .")
            continue
        try:
            JsonPath(text)
        except JsonPathError as error:
            yield Cause.invalid(f"{place}.jsonPath", text, f"invalid JSON path: {error}")


def _selectable_causes(selectable: Sequence[Object], schema: Object, path: str) -> Iterator[Cause]:
    for index, entry in enumerate(selectable):
        text = str(entry.get("jsonPath", ""))
        place = f"{path}[{index}].jsonPath"
        if not re.match(r"(?:\.[A-Za-z_][A-Za-z0-9_-]*)+\Z", text):
            yield Cause.invalid(place, text, "is an invalid path: must be a simple path such as .spec.field")
            continue
        if text.startswith(".metadata"):
            yield Cause.invalid(place, text, "must not point to fields in metadata")
            continue
        target: Any = schema
        for name in text[1:].split("."):
            target = (target.get("properties") or {}).get(name) or {}
        if target.get("type") not in _SELECTABLE_TYPES:
            detail = "must point to a field of type string, boolean or integer"
            yield Cause.invalid(place, text, detail)


def _conversion_causes(spec: Object) -> Iterator[Cause]:
    strategy = (spec.get("conversion") or {}).get("strategy", "None")
    if strategy != "None":
        yield Cause.not_supported("spec.conversion.strategy", strategy, ("None",))
