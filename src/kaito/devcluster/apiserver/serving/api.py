"""The endpoints of resources: from a parsed request to a reply."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.verbs import reads
from kaito.devcluster.apiserver.verbs.deletes import Deleted, DeleteOptions, deleted_status
from kaito.devcluster.apiserver.verbs.subresources import UNSUPPORTED, LogOptions, LogProvider, not_supported
from kaito.devcluster.apiserver.verbs.watch import WatchOptions
from kaito.devcluster.apiserver.verbs.writes import Overtaken
from kaito.devcluster.apiserver.webhooks.admission import Asking
from kaito.devcluster.apiserver.wire.negotiation import (
    APPLY_PATCH,
    JSON,
    JSON_PATCH,
    MERGE_PATCH,
    PLAIN,
    STRATEGIC_PATCH,
    YAML,
    decode_body,
    dump,
    media_type,
    negotiate,
    render_list,
    render_object,
    render_record,
    watch_renderer,
)
from kaito.devcluster.apiserver.wire.replies import Reply, Stream
from kaito.runtime import (
    AlreadyExists,
    BadRequest,
    MethodNotAllowed,
    NotFound,
    NotImplementedByServer,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kaito.devcluster.apiserver.auth.identity import User
    from kaito.devcluster.apiserver.cluster import Cluster
    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.store import Object, Record
    from kaito.devcluster.apiserver.verbs.writes import Write, Written
    from kaito.devcluster.apiserver.wire.requests import RequestInfo


OVERTAKEN_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Call:
    """One authorized request. ``headers`` is case-insensitive."""

    info: RequestInfo
    user: User
    headers: Mapping[str, str]
    body: bytes
    abort: Callable[[], None]
    """Cuts the connection."""

    @property
    def accept(self) -> str:
        return self.headers.get("Accept", "")

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


class Api:
    """Answers the requests about resources. Where no webhook is to be asked everything but streams is done before the next
    await."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.log_provider: LogProvider | None = None

    async def handle(self, call: Call) -> Reply | Stream:
        """Raises ApiError."""
        info = call.info
        kind = self._cluster.registry.find(info.group, info.version, info.plural)
        if kind is None or (kind.info.namespaced and info.name and not info.namespace):
            raise NotFound("the server could not find the requested resource")
        if kind.info.namespaced and not info.namespace and info.verb in ("create", "deletecollection"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if not info.name and info.verb in ("update", "patch"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if info.subresource:
            return await self._subresource(kind, call)
        if info.verb not in kind.info.verbs:
            raise MethodNotAllowed(
                "the server does not allow this method on the requested resource", details=meta.details(kind.info, "")
            )
        match info.verb:
            case "get":
                record = reads.get(self._cluster.store, kind, info.namespace, info.name, info.query)
                return self._record(call, kind, record)
            case "list":
                return self._list(call, kind)
            case "watch":
                return self._watch(call, kind)
            case "create":
                return await self._create(call, kind)
            case "update":
                return await self._update(call, kind, "")
            case "patch":
                return await self._patch(call, kind, "")
            case "delete":
                return await self._delete(call, kind)
            case "deletecollection":
                return self._delete_collection(call, kind)
        raise MethodNotAllowed("the server does not allow this method on the requested resource")

    def _list(self, call: Call, kind: Kind) -> Reply:
        representation = negotiate(call.accept)
        page = reads.list_page(self._cluster.store, kind, call.info.namespace, call.info.query)
        body = render_list(kind, page.records, page.metadata, representation, call.info.query, self._cluster.clock())
        return Reply(body, content_type=representation.content_type, warnings=_warnings(kind))

    def _watch(self, call: Call, kind: Kind) -> Stream:
        representation = negotiate(call.accept, streaming=True)
        query = call.info.query
        selection = reads.selection_of(kind, call.info.namespace, call.info.name, query)
        options = WatchOptions.parse(query, self._cluster.store)
        render = watch_renderer(kind, representation, query, self._cluster.clock)
        chunks = self._cluster.watches.stream(kind, selection, options, render, call.abort)
        content_type = JSON if representation.shape == "object" else f"{representation.content_type};stream=watch"
        return Stream(chunks, content_type, _warnings(kind))

    async def _create(self, call: Call, kind: Kind) -> Reply:
        info = call.info
        if info.name:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if self._cluster.reviews.answers(kind):
            answer = self._cluster.reviews.answer(kind, _body(call), call.user, info.namespace)
            return self._object(call, kind, answer, 201)
        if kind.info.group_resource == "bindings":
            self._cluster.subresources.bind(info.namespace, _body(call), info.query)
            return _success(201)
        write = self._cluster.writer.creating(kind, _body(call), namespace=info.namespace, query=info.query)
        return self._written(call, kind, await self._cluster.webhooks.carry_out(write, _asking(call)))

    async def _update(self, call: Call, kind: Kind, subresource: str) -> Reply:
        info = call.info
        written = await self._change(
            call,
            kind,
            lambda record: self._cluster.writer.updating(
                kind, record, _body(call), subresource=subresource, query=info.query
            ),
        )
        return self._written(call, kind, written)

    async def _patch(self, call: Call, kind: Kind, subresource: str) -> Reply:
        if media_type(call.content_type)[0] == APPLY_PATCH:
            return await self._apply(call, kind, subresource)
        patch, query = _patch_body(call), call.info.query
        written = await self._change(
            call,
            kind,
            lambda record: self._cluster.writer.patching(
                kind, record, patch, call.content_type, subresource=subresource, query=query
            ),
        )
        return self._written(call, kind, written)

    async def _apply(self, call: Call, kind: Kind, subresource: str) -> Reply:
        info, applier = call.info, self._cluster.applier
        body = _apply_body(call)
        if kind.collection.get(kind.path(info.namespace, info.name)) is None and not subresource:
            create = applier.creating(kind, body, namespace=info.namespace, name=info.name, query=info.query)
            with suppress(AlreadyExists):  # made by somebody else while webhooks were asked
                return self._written(call, kind, await self._cluster.webhooks.carry_out(create, _asking(call)))
        written = await self._change(
            call,
            kind,
            lambda record: applier.applying(kind, record, body, subresource=subresource, query=info.query),
        )
        return self._written(call, kind, written)

    async def _change(self, call: Call, kind: Kind, write: Callable[[Record], Write]) -> Written:
        """Carry out a change of what is stored now; anew where it was overtaken while webhooks were asked."""
        for _ in range(OVERTAKEN_ATTEMPTS):
            record = reads.find(kind, call.info.namespace, call.info.name)
            try:
                return await self._cluster.webhooks.carry_out(write(record), _asking(call))
            except Overtaken:
                continue
        raise meta.conflict(kind.info, call.info.name, meta.STALE)

    async def _delete(self, call: Call, kind: Kind) -> Reply:
        info = call.info
        record = reads.find(kind, info.namespace, info.name)
        options = DeleteOptions.parse(_body(call) if call.body else None, info.query)
        asking = _asking(call, dry_run=options.dry_run)
        await self._cluster.webhooks.allow_delete(kind, kind.read(record), asking)
        record = reads.find(kind, info.namespace, info.name)
        return self._deleted(call, kind, self._cluster.deleter.delete(kind, record, options), asking.warnings)

    def _delete_collection(self, call: Call, kind: Kind) -> Reply:
        options = DeleteOptions.parse(_body(call) if call.body else None, call.info.query)
        page = reads.list_page(self._cluster.store, kind, call.info.namespace, call.info.query)
        for record in page.records:
            if kind.collection.get(record.path) is not None:
                self._cluster.deleter.delete(kind, record, options)
        metadata = {"resourceVersion": str(self._cluster.store.revision)}
        body = render_list(kind, page.records, metadata, PLAIN, call.info.query, self._cluster.clock())
        return Reply(body)

    async def _subresource(self, kind: Kind, call: Call) -> Reply | Stream:
        info, cluster = call.info, self._cluster
        name = info.subresource
        if name.partition("/")[0] in UNSUPPORTED:
            raise not_supported(kind, name.partition("/")[0])
        declared = kind.info.subresources.get(name)
        if declared is None:
            raise NotFound("the server could not find the requested resource")
        if info.verb not in declared.verbs:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if name == "binding":
            cluster.subresources.bind(info.namespace, _body(call), info.query, name=info.name)
            return _success(201)
        record = reads.find(kind, info.namespace, info.name)
        match name, info.verb:
            case "status", "get":
                return self._record(call, kind, record)
            case "status", "update":
                return await self._update(call, kind, "status")
            case "status", "patch":
                return await self._patch(call, kind, "status")
            case "scale", "get":
                return self._object(call, kind, cluster.subresources.scale(kind, record))
            case "scale", "update":
                scale = cluster.subresources.update_scale(kind, record, _body(call), info.query)
                return self._object(call, kind, scale)
            case "scale", "patch" if media_type(call.content_type)[0] == APPLY_PATCH:
                scale = cluster.subresources.apply_scale(kind, record, _apply_body(call), info.query)
                return self._object(call, kind, scale)
            case "scale", "patch":
                scale = cluster.subresources.patch_scale(kind, record, _patch_body(call), call.content_type, info.query)
                return self._object(call, kind, scale)
            case "eviction", _:
                cluster.subresources.evict(record, _body(call), info.query)
                return _success(201)
            case "token", _:
                return self._object(call, kind, cluster.subresources.token(record, _body(call)), 201)
            case "finalize", _:
                written = cluster.subresources.finalize(kind, record, _body(call), info.query)
                return self._written(call, kind, written)
            case "log", _:
                return self._log(call, kind.read(record))
        raise MethodNotAllowed("the server does not allow this method on the requested resource")

    def _log(self, call: Call, pod: Object) -> Stream:
        options = LogOptions.parse(call.info.query, pod)
        if self.log_provider is None:
            raise NotImplementedByServer("pods/log: this API server has no kubelet to ask for logs")
        return Stream(self.log_provider(pod, options), "text/plain")

    def _record(self, call: Call, kind: Kind, record: Record, status: int = 200) -> Reply:
        representation = negotiate(call.accept)
        body = render_record(kind, record, representation, call.info.query, self._cluster.clock())
        return Reply(body, status, representation.content_type, _warnings(kind))

    def _object(self, call: Call, kind: Kind, obj: Object, status: int = 200) -> Reply:
        representation = negotiate(call.accept)
        if obj.get("kind") != kind.info.kind and representation.shape != "object":
            representation = PLAIN
        body = render_object(kind, obj, representation, call.info.query, self._cluster.clock())
        return Reply(body, status, representation.content_type)

    def _written(self, call: Call, kind: Kind, written: Written) -> Reply:
        status = 201 if written.created else 200
        if written.record is not None:
            reply = self._record(call, kind, written.record, status)
        else:
            reply = self._object(call, kind, written.obj, status)
        return Reply(reply.body, reply.status, reply.content_type, [*_warnings(kind), *written.warnings])

    def _deleted(self, call: Call, kind: Kind, deleted: Deleted, warnings: list[str]) -> Reply:
        if deleted.gone and not kind.strategy.returns_deleted:
            return Reply(dump(deleted_status(kind, deleted.obj), PLAIN), warnings=warnings)
        if deleted.record is not None:
            reply = self._record(call, kind, deleted.record)
        else:
            reply = self._object(call, kind, deleted.obj)
        return Reply(reply.body, reply.status, reply.content_type, [*_warnings(kind), *warnings])


def _asking(call: Call, *, dry_run: bool | None = None) -> Asking:
    return Asking(call.user, call.info.query.dry_run() if dry_run is None else dry_run)


def _warnings(kind: Kind) -> list[str]:
    return [kind.deprecation] if kind.deprecation else []


def _success(status: int) -> Reply:
    return Reply(
        dump({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": status}, PLAIN), status
    )


def _body(call: Call) -> object:
    if not call.body:
        raise BadRequest("the request has no body: an object was expected")
    return decode_body(call.body, call.content_type)


def _apply_body(call: Call) -> object:
    """The configuration of a server-side apply, which is YAML or JSON."""
    if not call.body:
        raise BadRequest("the request has no body: an object was expected")
    return decode_body(call.body, JSON if call.body.startswith(b"{") else YAML)


def _patch_body(call: Call) -> object:
    """The body of a patch of another kind. Raises Invalid where only an apply may be forced."""
    kind, _ = media_type(call.content_type)
    if not kind.endswith("patch+json"):
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON_PATCH}, {MERGE_PATCH}, {STRATEGIC_PATCH}, {APPLY_PATCH}"
        )
    if call.info.query.text("force"):
        cause = Cause.forbidden("force", "may not be specified for non-apply patch")
        raise meta.invalid_options("PatchOptions", [cause])
    return _body(call)
