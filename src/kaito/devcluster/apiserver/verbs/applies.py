"""Server-side apply: a configuration of some fields, to the object that holds them, or to a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.managedfields import applied, track_create, untyped
from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.schema.fields import copy_json
from kaito.devcluster.apiserver.verbs.writes import Write, Writer, check_fields, check_preconditions
from kaito.runtime import BadRequest

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.store import Object, Record
    from kaito.devcluster.apiserver.wire.requests import Query


class Applier:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def creating(self, kind: Kind, body: Any, *, namespace: str, name: str, query: Query) -> Write:
        """Make the object that ``body`` describes. Raises ApiError."""
        config = self._config(kind, body, namespace, name, query)
        if uid := config["metadata"].get("uid"):
            raise meta.conflict(
                kind.info,
                name,
                f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
            )
        obj = copy_json(config)
        track_create(kind, obj, config, query.manager(), self._now())
        return (yield from self._writer.creating(kind, obj, namespace=namespace, name=name, query=query))

    def applying(self, kind: Kind, record: Record, body: Any, *, subresource: str = "", query: Query) -> Write:
        """Change the stored object to what ``body`` describes. Raises ApiError, Overtaken."""
        config = self._config(kind, body, record.namespace, record.name, query)
        old = kind.read(record)
        check_preconditions(kind, record, config["metadata"], old["metadata"])
        obj = applied(
            kind,
            kind.read(record),
            config,
            query.manager(),
            subresource=subresource,
            force=query.flag("force"),
            now=self._now(),
        )
        return (yield from self._writer.replace(kind, record, obj, old, subresource, query, [], owned=True))

    def _config(self, kind: Kind, body: Any, namespace: str, name: str, query: Query) -> Object:
        """``body`` as an object of ``kind``, checked as far as a part of an object can be."""
        if not query.text("fieldManager"):
            cause = Cause.required("fieldManager", "is required for apply patch")
            raise meta.invalid_options("PatchOptions", [cause])
        config: Object = copy_json(meta.check_type(body, kind))
        meta.settle_place(config["metadata"], kind, namespace, name)
        if config["metadata"].get("managedFields"):
            raise BadRequest("metadata.managedFields must be nil")
        unknown = kind.schema.unknown_fields(config)
        if unknown:
            raise untyped(kind, config, f".{unknown[0]}: field not declared in schema")
        check_fields(kind, config, query)
        return config

    def _now(self) -> str:
        return meta.timestamp(self._writer.clock())
