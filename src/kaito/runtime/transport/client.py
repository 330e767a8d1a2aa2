"""Reads and writes of single objects and lists, always live. Cached reads are in ``kaito.runtime.cache.cache``.

Every method returns new values and never changes its arguments. A write checks the leader fence each time before it is
sent, and its result is shown to the ``WriteObserver`` before it is returned, which is how the cache comes to know it (read
your writes).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, final

import msgspec

from kaito.runtime.errors import UNDECODABLE, DecodeError
from kaito.runtime.objects.resource import Key, Manifest, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import ObjectMeta, Stored, decode_meta
from kaito.runtime.transport.pager import list_pages
from kaito.runtime.transport.rest import Rest

T = TypeVar("T")


class PatchType(enum.StrEnum):
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class WriteObserver(Protocol):
    """Told of what this process has written, before the caller is."""

    def written(self, resource: Resource[Any], data: bytes) -> None: ...

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None: ...


class _NoObserver:
    def written(self, resource: Resource[Any], data: bytes) -> None:
        pass

    def deleted(self, resource: Resource[Any], key: Key, uid: str) -> None:
        pass


class _DeletedDetails(msgspec.Struct):
    uid: str = ""


class _Deleted(msgspec.Struct):
    kind: str = ""
    details: _DeletedDetails | None = None


def _unfenced() -> None:
    """Writes need no leadership."""


@final
class Client:
    """Typed access to one API server.

    All methods raise the errors of ``kaito.runtime.errors``; a write also raises ``FencedError``, before anything is sent,
    where this process may no longer lead.
    """

    def __init__(
        self,
        rest: Rest,
        *,
        fence: Callable[[], None] = _unfenced,
        observer: WriteObserver | None = None,
        field_manager: str = "kaito",
    ) -> None:
        self.rest = rest
        self._fence = fence
        self._observer: WriteObserver = observer or _NoObserver()
        self._field_manager = field_manager

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        answer = await self.rest.send("GET", resource.path(namespace, name))
        return _decode(resource, answer.body)

    async def list(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        labels: LabelSelector | Mapping[str, str] | None = None,
        fields: FieldSelector | None = None,
    ) -> list[T]:
        """All objects as of now, read in pages; from all namespaces where ``namespace`` is empty."""
        query: dict[str, str] = {}
        if labels:
            query["labelSelector"] = str(labels if isinstance(labels, LabelSelector) else LabelSelector.of(labels))
        if fields:
            query["fieldSelector"] = str(fields)
        found: list[T] = []
        async for page in list_pages(self.rest, resource, resource.path(namespace), query):
            if page.restarted:
                found.clear()
            found.extend(Stored(resource, bytes(item)).decode() for item in page.items)
        return found

    async def create(self, resource: Resource[T], obj: T, *, namespace: str = "") -> T:
        data = resource.encode(obj)
        namespace = namespace or decode_meta(data).namespace
        return await self._write("POST", resource, resource.path(namespace), data)

    async def update(self, resource: Resource[T], obj: T) -> T:
        """Replace the object. Raises Conflict unless ``obj`` carries the current resource version."""
        return await self._put(resource, obj, "")

    async def update_status(self, resource: Resource[T], obj: T) -> T:
        """Replace the object's status; the rest of ``obj`` is ignored by the server."""
        return await self._put(resource, obj, "status")

    async def _put(self, resource: Resource[T], obj: T, subresource: str) -> T:
        data = resource.encode(obj)
        meta = decode_meta(data)
        return await self._write("PUT", resource, resource.path(meta.namespace, meta.name, subresource), data)

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str = "",
        subresource: str = "",
        kind: PatchType = PatchType.MERGE,
    ) -> T:
        """Change the object by a patch; a resource version in ``patch`` makes it conditional (Conflict)."""
        path = resource.path(namespace, name, subresource)
        return await self._write("PATCH", resource, path, msgspec.json.encode(patch), content_type=kind.value)

    async def server_side_apply(
        self, resource: Resource[T], obj: T, *, field_manager: str = "", force: bool = False, subresource: str = ""
    ) -> T:
        """Make the object have the fields that ``obj`` has, and ``field_manager`` (this client's by default) their owner.

        Fields that it owned and ``obj`` lacks are removed. Raises Conflict where another manager owns a field and wants
        another value; ``force`` takes such fields over.
        """
        manifest = msgspec.json.decode(resource.encode(obj), type=Manifest)
        meta = decode_meta(resource.encode(obj))
        # The server refuses an apply that brings the record of who owns what.
        manifest.get("metadata", {}).pop("managedFields", None)
        manifest |= {"apiVersion": resource.api_version, "kind": resource.kind}
        path = resource.path(meta.namespace, meta.name, subresource)
        query = {"fieldManager": field_manager or self._field_manager, "force": "true" if force else "false"}
        # JSON is YAML.
        return await self._write(
            "PATCH", resource, path, msgspec.json.encode(manifest), content_type=PatchType.APPLY.value, query=query
        )

    async def post(
        self,
        resource: Resource[Any],
        name: str,
        subresource: str,
        body: Mapping[str, Any],
        namespace: str = "",
        *,
        wait: bool = True,
    ) -> Any:
        """Create a subresource, such as a pod's ``binding`` or ``eviction``; the server's answer as plain values.

        Without ``wait`` a server that asks to come back later, as for an eviction that a budget forbids, is not asked again.
        """
        path = resource.path(namespace, name, subresource)
        data = msgspec.json.encode(body)
        answer = await self.rest.send("POST", path, body=data, query=self._query(), guard=self._fence, wait=wait)
        try:
            return msgspec.json.decode(answer.body)
        except UNDECODABLE as error:
            raise DecodeError(f"the server's answer to a {subresource} is not JSON: {error}") from error

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str = "",
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
        grace_period: int | None = None,
    ) -> None:
        """Ask for the object's deletion; finalizers may keep it a while. Raises NotFound, and Conflict where ``uid`` or
        ``resource_version`` is not the object's.

        ``propagation`` is Background, Foreground or Orphan; ``grace_period`` is in seconds.
        """
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if any(preconditions.values()):
            options["preconditions"] = {name: value for name, value in preconditions.items() if value}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        data = msgspec.json.encode(options)
        answer = await self.rest.send("DELETE", resource.path(namespace, name), body=data, guard=self._fence)
        try:
            result = msgspec.json.decode(answer.body, type=_Deleted)
        except UNDECODABLE as error:
            raise DecodeError(f"the server's answer to a deletion is not JSON: {error}") from error
        if result.kind == resource.kind:
            self._observer.written(resource, answer.body)
        elif result.details and result.details.uid:
            self._observer.deleted(resource, Key(namespace if resource.namespaced else "", name), result.details.uid)

    def _query(self) -> dict[str, str]:
        return {"fieldManager": self._field_manager}

    async def _write(
        self,
        method: str,
        resource: Resource[T],
        path: str,
        data: bytes,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> T:
        answer = await self.rest.send(
            method, path, body=data, content_type=content_type, query=query or self._query(), guard=self._fence
        )
        written = _decode(resource, answer.body)
        self._observer.written(resource, answer.body)
        return written


def _decode(resource: Resource[T], data: bytes) -> T:
    try:
        return resource.decode(data)
    except UNDECODABLE as error:  # pydantic's errors are ValueErrors, too
        raise DecodeError(f"the server's answer is not a {resource.kind}: {error}") from error


def meta_of(resource: Resource[T], obj: T) -> ObjectMeta:
    """The metadata of an object of any resource. Raises DecodeError."""
    return decode_meta(resource.encode(obj))
