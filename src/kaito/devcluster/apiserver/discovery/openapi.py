"""OpenAPI v3 documents, one for each group and version: what kubectl validates, merges and explains by.

``kubectl`` wants paths with actions and kinds, PATCH with a ``fieldValidation`` parameter, and schemas that say of what
kind they are. Replies and media types are described in outline only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kaito.devcluster.apiserver.objects.builtins import ResourceInfo, SubresourceInfo, definition_name
from kaito.devcluster.apiserver.schema.definitions import META, OBJECT_META, REFERENCE, definitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Object = dict[str, Any]

_PATCH_TYPES: Final = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
_JSON: Final = "application/json"
_SELECTIONS: Final = (
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
)
_WRITE: Final = (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"))
_DELETE: Final = (
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
)
_GVK: Final = "x-kubernetes-group-version-kind"


def group_version_document(
    group: str, version: str, infos: Sequence[ResourceInfo], crds: Mapping[str, Object]
) -> Object:
    """The document at ``/openapi/v3/apis/<group>/<version>`` (``/openapi/v3/api/v1`` for core).

    ``infos`` are the resources of that version; ``crds`` maps the kinds among them that have no built-in definition to
    their ``openAPIV3Schema``.
    """
    names = {info.kind: info.definition or _custom_name(info) for info in infos}
    schemas: Object = {}
    for info in infos:
        if not info.definition:
            schemas |= _custom_schemas(info, names[info.kind], crds.get(info.kind, {"type": "object"}))
    wanted = {name for name in names.values() if name not in schemas}
    wanted |= {_list_name(info, names) for info in infos if info.list_kind and info.definition}
    wanted |= {
        definition_name(sub.group, sub.version, sub.kind)
        for info in infos
        for sub in info.subresources.values()
        if sub.kind != info.kind and not sub.connects
    }
    wanted |= {OBJECT_META, *(META + kind for kind in ("DeleteOptions", "ListMeta", "Patch", "Status"))}
    schemas |= _closure(wanted)
    paths: Object = {}
    for info in infos:
        paths |= _paths(info, names)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _custom_name(info: ResourceInfo) -> str:
    """Group in reverse, as a real server names the definitions of custom resources: ``sh.kaito.v1beta1.Workspace``."""
    return ".".join([*reversed(info.group.split(".")), info.version, info.kind])


def _list_name(info: ResourceInfo, names: Mapping[str, str]) -> str:
    return f"{names[info.kind].rpartition('.')[0]}.{info.list_kind}"


def _custom_schemas(info: ResourceInfo, name: str, schema: Object) -> Object:
    kind = [{"group": info.group, "version": info.version, "kind": info.kind}]
    properties = {
        "apiVersion": {"type": "string", "description": "The versioned schema of this representation of an object."},
        "kind": {"type": "string", "description": "The REST resource that this object represents."},
        "metadata": {
            "allOf": [{"$ref": REFERENCE + OBJECT_META}],
            "description": "Standard object's metadata.",
        },
    }
    shown = {**schema, "properties": {**schema.get("properties", {}), **properties}, _GVK: kind}
    collection = {
        "type": "object",
        "description": f"{info.list_kind} is a list of {info.kind}",
        "required": ["items"],
        "properties": {
            **{key: properties[key] for key in ("apiVersion", "kind")},
            "items": {"type": "array", "items": {"allOf": [{"$ref": REFERENCE + name}]}},
            "metadata": {"allOf": [{"$ref": f"{REFERENCE}{META}ListMeta"}], "description": "Standard list metadata."},
        },
        _GVK: [{**kind[0], "kind": info.list_kind}],
    }
    return {name: shown, f"{name.rpartition('.')[0]}.{info.list_kind}": collection}


def _closure(roots: set[str]) -> Object:
    known = definitions()
    kept: Object = {}
    pending = set(roots)
    while pending:
        name = pending.pop()
        kept[name] = known[name]
        pending |= set(_references(known[name])) - kept.keys()
    return kept


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.removeprefix(REFERENCE)
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _paths(info: ResourceInfo, names: Mapping[str, str]) -> Iterator[tuple[str, Object]]:
    base = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    collection = f"{base}/namespaces/{{namespace}}/{info.plural}" if info.namespaced else f"{base}/{info.plural}"
    scope = [_path_parameter("namespace")] if info.namespaced else []
    item = [*scope, _path_parameter("name")]
    target = _Target(info, names)
    if methods := target.collection():
        yield collection, {**methods, "parameters": scope}
    if info.namespaced and "list" in info.verbs:
        yield f"{base}/{info.plural}", {"get": target.list(across="ForAllNamespaces"), "parameters": []}
    if methods := target.item(info.verbs):
        yield f"{collection}/{{name}}", {**methods, "parameters": item}
    for name, sub in info.subresources.items():
        if sub.connects:
            continue
        yield f"{collection}/{{name}}/{name}", {**_Target(info, names, name, sub).item(sub.verbs), "parameters": item}


class _Target:
    """The operations on one resource or subresource."""

    def __init__(
        self, info: ResourceInfo, names: Mapping[str, str], subresource: str = "", sub: SubresourceInfo | None = None
    ) -> None:
        self._info = info
        source = sub or info
        self._kind = {"group": source.group, "version": source.version, "kind": source.kind}
        same = sub is None or sub.kind == info.kind
        self._schema = names[info.kind] if same else definition_name(source.group, source.version, source.kind)
        self._list_schema = _list_name(info, names) if info.list_kind else ""
        self._infix = subresource.capitalize()

    def collection(self) -> Object:
        verbs, methods = self._info.verbs, {}
        if "list" in verbs:
            methods["get"] = self.list()
        if "create" in verbs:
            methods["post"] = self._operation("create", "post", _WRITE, body=self._schema)
        if "deletecollection" in verbs:
            parameters = (*_SELECTIONS, *_DELETE)
            methods["delete"] = self._operation(
                "deleteCollection", "deletecollection", parameters, body=f"{META}DeleteOptions", returns=f"{META}Status"
            )
        return methods

    def list(self, across: str = "") -> Object:
        return self._operation("list", "list", _SELECTIONS, returns=self._list_schema, suffix=across)

    def item(self, verbs: Sequence[str]) -> Object:
        methods: Object = {}
        if "get" in verbs:
            methods["get"] = self._operation("read", "get", ())
        if "create" in verbs and self._infix:
            methods["post"] = self._operation("create", "post", _WRITE, body=self._schema)
        if "update" in verbs:
            methods["put"] = self._operation("replace", "put", _WRITE, body=self._schema)
        if "delete" in verbs:
            methods["delete"] = self._operation(
                "delete", "delete", _DELETE, body=f"{META}DeleteOptions", returns=f"{META}Status"
            )
        if "patch" in verbs:
            types = _PATCH_TYPES if self._info.definition else _PATCH_TYPES[:-1]
            parameters = (*_WRITE, ("force", "boolean"))
            methods["patch"] = self._operation("patch", "patch", parameters, body=f"{META}Patch", media_types=types)
        return methods

    def _operation(
        self,
        verb: str,
        action: str,
        parameters: Sequence[tuple[str, str]],
        *,
        body: str = "",
        returns: str = "",
        media_types: Sequence[str] = (_JSON,),
        suffix: str = "",
    ) -> Object:
        info = self._info
        group = "".join(part.capitalize() for part in (info.group.partition(".")[0] or "core").split("-"))
        scope = "Namespaced" if info.namespaced and not suffix else ""
        operation: Object = {
            "operationId": f"{verb}{group}{info.version.capitalize()}{scope}{info.kind}{self._infix}{suffix}",
            "tags": [f"{info.group.partition('.')[0] or 'core'}_{info.version}"],
            "parameters": [{"name": name, "in": "query", "schema": {"type": kind}} for name, kind in parameters],
            "responses": {"200": {"description": "OK", "content": {_JSON: _schema(returns or self._schema)}}},
            "x-kubernetes-action": action,
            _GVK: self._kind,
        }
        if body:
            operation["requestBody"] = {"content": dict.fromkeys(media_types, _schema(body)), "required": True}
        return operation


def _schema(name: str) -> Object:
    return {"schema": {"$ref": REFERENCE + name}}


def _path_parameter(name: str) -> Object:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
