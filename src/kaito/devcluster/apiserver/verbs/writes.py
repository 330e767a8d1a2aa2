"""Create, update and patch: from a request's body to a stored record.

The order is kube-apiserver's: decode, unknown fields, prune, default, admission, validation, store. A write is a generator
that stops where webhooks are to be asked, first for changes and then for consent, and is sent the object to go on with. Where
nobody is to be asked it all happens between two awaits, so a patch never meets a concurrent writer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.managedfields import track_update
from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.objects.registry import Kind
from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import Object, Record, encode, same
from kaito.devcluster.apiserver.verbs import patch
from kaito.devcluster.apiserver.wire.negotiation import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, media_type
from kaito.devcluster.apiserver.wire.requests import NO_QUERY, Query
from kaito.runtime import ApiError, BadRequest, Conflict, Invalid, MethodNotAllowed, UnsupportedMediaType

if TYPE_CHECKING:
    from datetime import datetime

    from kaito.devcluster.apiserver.verbs.admission import Admission

GENERATE_ATTEMPTS = 8
_HEAD = frozenset({"apiVersion", "kind", "metadata"})
Listener = Callable[[Kind, Object | None, Object | None], None]


@dataclass(slots=True)
class Written:
    """The outcome of a write. ``record`` is None for a dry run."""

    obj: Object
    record: Record | None
    warnings: list[str] = field(default_factory=list)
    created: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A stop of a write: what the webhooks are to be shown."""

    mutating: bool
    kind: Kind
    obj: Object
    """The object to be stored."""
    old: Object | None
    """The object as it is stored; None for a new one."""
    subresource: str = ""


Write = Generator[Ask, Object, Written]
"""A write in steps. Each stop is answered with the object to go on with."""


class Overtaken(Exception):
    """The object was written while webhooks were asked about a change of it."""


def at_once(write: Write) -> Written:
    """Carry ``write`` out without asking anybody."""
    answer: Object | None = None
    while True:
        try:
            ask = write.send(answer) if answer is not None else next(write)
        except StopIteration as stop:
            written: Written = stop.value
            return written
        answer = ask.obj


class Writer:
    """Carries writes out. ``listeners`` are called after each commit with the object before and after it."""

    def __init__(self, admission: Admission, clock: Callable[[], datetime]) -> None:
        self.admission = admission
        self.clock = clock
        self.listeners: list[Listener] = []

    def create(self, kind: Kind, body: Any, *, namespace: str, name: str = "", query: Query = NO_QUERY) -> Written:
        """Store a new object of the server's own, about which nobody is asked. Raises ApiError."""
        return at_once(self.creating(kind, body, namespace=namespace, name=name, query=query))

    def creating(self, kind: Kind, body: Any, *, namespace: str, name: str = "", query: Query = NO_QUERY) -> Write:
        """Store a new object. ``body`` becomes the server's. Raises ApiError."""
        if kind.terminating:
            raise MethodNotAllowed(
                f"create not allowed while custom resource definition is terminating: {kind.info.group_resource}",
                details=meta.details(kind.info, name),
            )
        obj = meta.check_type(body, kind)
        warnings = check_fields(kind, obj, query)
        meta.prepare_create(obj, kind, namespace, name, self.clock())
        if not obj["metadata"].get("name"):
            raise meta.invalid(kind.info, "", [Cause.required("metadata.name", "name or generateName is required")])
        if kind.has_status and not kind.strategy.status_on_create:
            obj.pop("status", None)
        self._default(kind, obj)
        if kind.has_status and not kind.custom:
            obj.setdefault("status", {})
        self.admission.create(kind, obj)
        changed = yield Ask(True, kind, obj, None)
        if changed is not obj:
            obj = changed
            warnings += check_fields(kind, obj, query)
            self._default(kind, obj)
        kind.strategy.prepare_create(obj, kind.collection)
        self._validate(kind, obj, None)
        yield Ask(False, kind, obj, None)
        path = kind.path_of(obj)
        for _ in range(GENERATE_ATTEMPTS):
            if kind.collection.get(path) is None:
                break
            if name or not obj["metadata"].get("generateName"):
                raise meta.already_exists(kind.info, obj["metadata"]["name"])
            obj["metadata"]["name"] = meta.generated_name(obj["metadata"]["generateName"])
            path = kind.path_of(obj)
        else:
            raise meta.already_exists(kind.info, obj["metadata"]["name"])
        record = None if query.dry_run() else self.commit(kind, path, obj, None)
        return Written(obj, record, warnings, created=True)

    def update(
        self, kind: Kind, record: Record, body: Any, *, subresource: str = "", query: Query = NO_QUERY
    ) -> Written:
        """Replace an object without asking anybody. Raises ApiError."""
        return at_once(self.updating(kind, record, body, subresource=subresource, query=query))

    def updating(
        self, kind: Kind, record: Record, body: Any, *, subresource: str = "", query: Query = NO_QUERY
    ) -> Write:
        """Replace an object, or with ``subresource`` ``status`` its status. Raises ApiError, Overtaken.

        ``scale`` says only by which way the object is written.
        """
        obj = meta.check_type(body, kind)
        meta.settle_place(obj["metadata"], kind, record.namespace, record.name)
        warnings = check_fields(kind, obj, query)
        if not obj["metadata"].get("resourceVersion") and not kind.strategy.unconditional_update:
            cause = Cause(
                "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0x0: must be specified for an update"
            )
            raise meta.invalid(kind.info, record.name, [cause])
        return (yield from self.replace(kind, record, obj, kind.read(record), subresource, query, warnings))

    def patching(
        self,
        kind: Kind,
        record: Record,
        body: Any,
        content_type: str,
        *,
        subresource: str = "",
        query: Query = NO_QUERY,
    ) -> Write:
        """Apply a JSON, merge or strategic merge patch. Raises ApiError, Overtaken."""
        old = kind.read(record)
        obj = apply_patch(kind, old, body, content_type)
        try:
            obj = meta.check_type(obj, kind)
            meta.settle_place(obj["metadata"], kind, record.namespace, record.name)
            # The fields that the patch leaves alone were checked when they were stored.
            kept = {name for name, value in obj.items() if name not in _HEAD and same(value, old.get(name))}
            checked = {name: value for name, value in obj.items() if name not in kept}
            warnings = check_fields(kind, checked, query)
        except BadRequest as error:
            raise refused_patch(body, error) from error
        only_metadata = checked.keys() <= _HEAD and kept == old.keys() - _HEAD
        obj = {name: obj[name] if name in kept else checked[name] for name in obj if name in kept or name in checked}
        write = self.replace(kind, record, obj, old, subresource, query, warnings, only_metadata=only_metadata)
        return (yield from write)

    def replace(
        self,
        kind: Kind,
        record: Record,
        obj: Object,
        old: Object,
        subresource: str,
        query: Query,
        warnings: list[str],
        *,
        only_metadata: bool = False,
        owned: bool = False,
    ) -> Write:
        """Go on with ``obj``, decoded and checked. ``owned``: it says already who owns which of its fields."""
        check_preconditions(kind, record, obj["metadata"], old["metadata"])
        meta.prepare_update(obj, old)
        if subresource == "status":
            obj = _status_write(kind, obj, old)
            self._default(kind, obj)
        else:
            if kind.has_status:
                obj.pop("status", None)
                if "status" in old:
                    obj["status"] = old["status"]
            if not only_metadata:
                self._default(kind, obj)
        changed = yield Ask(True, kind, obj, old, subresource)
        if changed is not obj:
            obj, only_metadata = changed, False
            warnings += check_fields(kind, obj, query)
            self._default(kind, obj)
        if subresource != "status":
            kind.strategy.prepare_update(obj, old, kind.collection)
            if kind.strategy.generation and not same(_wanted(kind, obj), _wanted(kind, old)):
                obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if not owned and ("managedFields" in old["metadata"] or "managedFields" in obj["metadata"]):
            track_update(kind, obj, old, query.manager(), subresource, meta.timestamp(self.clock()))
        self._validate(kind, obj, old, status=subresource == "status", only_metadata=only_metadata)
        yield Ask(False, kind, obj, old, subresource)
        if kind.collection.get(record.path) is not record:
            raise Overtaken
        return self.store(kind, record, obj, old, query=query, warnings=warnings)

    def store(
        self,
        kind: Kind,
        record: Record,
        obj: Object,
        old: Object,
        *,
        query: Query = NO_QUERY,
        warnings: list[str] | None = None,
    ) -> Written:
        """Store a checked update: nothing when nothing changed, a removal when that was all that deletion waited for."""
        warnings = warnings or []
        if query.dry_run():
            return Written(obj, None, warnings)
        if is_released(kind, obj):
            self.remove(kind, record)
            return Written(obj, None, warnings)
        if same(obj, old):
            return Written(obj, record, warnings)
        return Written(obj, self.commit(kind, record.path, obj, old), warnings)

    def commit(self, kind: Kind, path: str, obj: Object, old: Object | None) -> Record:
        stored = kind.conversion.write(obj) if kind.conversion is not None else obj
        expires = self.clock().timestamp() + kind.ttl if kind.ttl is not None else None
        record = kind.collection.put(path, stored, kind.stored_fields(stored), expires=expires)
        for listener in self.listeners:
            listener(kind, old, obj)
        return record

    def remove(self, kind: Kind, record: Record) -> None:
        kind.collection.remove(record.path)
        if self.listeners:
            old = kind.read(record)
            for listener in self.listeners:
                listener(kind, old, None)

    def _default(self, kind: Kind, obj: Object) -> None:
        kind.schema.default(obj)
        kind.strategy.default(obj)

    def _validate(
        self, kind: Kind, obj: Object, old: Object | None, *, status: bool = False, only_metadata: bool = False
    ) -> None:
        causes = [] if old is None else meta.validate_metadata_update(obj, old)
        causes += meta.validate_metadata(obj, kind)
        if not only_metadata and (kind.custom or not status):
            causes += kind.schema.validate(obj, old)
        if not status:
            causes += kind.strategy.validate(obj, old)
        if causes:
            raise meta.invalid(kind.info, obj["metadata"].get("name", ""), causes)


class Undecodable(BadRequest):
    """An object that does not decode as its kind. ``cannot`` says why, without naming the kind."""

    def __init__(self, kind: Kind, reason: str) -> None:
        name = kind.info.kind
        super().__init__(f'{name} in version "{kind.info.version}" cannot be handled as a {name}: {reason}')
        self.cannot = reason


def check_fields(kind: Kind, obj: Object, query: Query) -> list[str]:
    """Type-check ``obj`` and drop its unknown fields, by the ``fieldValidation`` of the query; returns warnings.

    Raises Undecodable, or Invalid for an unknown directive.
    """
    directive = query.text("fieldValidation") or "Warn"
    if directive not in ("Ignore", "Warn", "Strict"):
        raise Invalid(
            f'Invalid value: fieldValidation: Unsupported value: "{directive}": '
            'supported values: "Ignore", "Strict", "Warn"'
        )
    if not kind.custom:
        meta.drop_nulls(obj, kind.strategy.free_form)
    errors = kind.schema.decode_errors(obj)
    if errors:
        raise Undecodable(kind, errors[0])
    unknown = kind.schema.unknown_fields(obj) if directive != "Ignore" else []
    problems = [f'unknown field "{path}"' for path in unknown]
    if problems and directive == "Strict":
        raise Undecodable(kind, f"strict decoding error: {', '.join(problems)}")
    if problems or directive == "Ignore":
        kind.schema.prune(obj)
    return problems


def apply_patch(kind: Kind, obj: Object, body: Any, content_type: str) -> Any:
    """The patched object. Raises UnsupportedMediaType for patch types that do not apply to the kind."""
    accepted = [JSON_PATCH, MERGE_PATCH] + ([] if kind.custom else [STRATEGIC_PATCH])
    match media_type(content_type)[0]:
        case "application/json-patch+json":
            return patch.json_patch(obj, body)
        case "application/merge-patch+json":
            return patch.merge_patch(obj, body)
        case "application/strategic-merge-patch+json" if not kind.custom:
            return patch.strategic_merge_patch(obj, body, kind.schema)
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    )


def refused_patch(body: Any, error: ApiError) -> Invalid:
    """A patch whose result does not decode is Invalid on the pseudo-field ``patch``, as kube-apiserver answers."""
    why = error.cannot if isinstance(error, Undecodable) else error.message
    message = f'Invalid value: "{encode(body).decode()}": {why}'
    cause = {"reason": "FieldValueInvalid", "message": message, "field": "patch"}
    return Invalid(f' "" is invalid: patch: {message}', details={"causes": [cause]})


def check_preconditions(kind: Kind, record: Record, wanted: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """A uid or resource version in an update must be that of the stored object. Raises Conflict."""
    if wanted.get("uid") and wanted["uid"] != held["uid"]:
        raise Conflict(
            f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {held['uid']}",
            details=meta.details(kind.info, record.name),
        )
    version = wanted.get("resourceVersion")
    if version and version != "0" and version != held["resourceVersion"]:
        raise meta.conflict(kind.info, record.name, meta.STALE)


def is_released(kind: Kind, obj: Object) -> bool:
    """Whether an object under deletion has nothing left to wait for."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("deletionGracePeriodSeconds"):
        return False
    if kind.info.group_resource == "namespaces" and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("finalizers")


def _wanted(kind: Kind, obj: Object) -> Object:
    """What ``metadata.generation`` counts changes of."""
    skipped = {"apiVersion", "kind", "metadata"} | ({"status"} if kind.has_status or not kind.custom else set())
    return {name: value for name, value in obj.items() if name not in skipped}


def _status_write(kind: Kind, obj: Object, old: Object) -> Object:
    """``old`` with the status of ``obj``, and of built-in kinds also the metadata that is free to change."""
    result = dict(old)
    if not kind.custom:
        result["metadata"] = obj["metadata"]
        if not kind.strategy.status_writes_labels:
            result["metadata"].pop("labels", None)
            if "labels" in old["metadata"]:
                result["metadata"]["labels"] = old["metadata"]["labels"]
    result.pop("status", None)
    if obj.get("status") is not None:
        result["status"] = obj["status"]
    return result
