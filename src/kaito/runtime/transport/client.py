"""Reads and writes of single objects and lists, always live. Cached reads are in ``kaito.runtime.cache.cache``.

Every method returns new values and never changes its arguments. A write checks the leader fence right before its first
byte, and its result is shown to the ``WriteObserver`` before anything else is made of it, which is how the cache comes to
know it (read your writes), also where the result is then of no use to the caller.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol, TypeVar, final, overload

import msgspec

from kaito.runtime.errors import UNDECODABLE, Conflict, DecodeError, Invalid
from kaito.runtime.objects.resource import Key, Manifest, Resource
from kaito.runtime.objects.selectors import FieldSelector, LabelSelector
from kaito.runtime.objects.stored import ObjectMeta, Stored, decode_meta
from kaito.runtime.transport import watching
from kaito.runtime.transport.answers import decode, deleted_uid, is_of, test_failed
from kaito.runtime.transport.pager import PAGE_SIZE, list_pages
from kaito.runtime.transport.rest import Rest
from kaito.runtime.transport.watching import WatchEvent

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


FieldValidation = Literal["Strict", "Warn", "Ignore"]
"""What a server does with fields that the kind does not have, or that are there twice: refuse, warn, or say nothing."""
Selector = LabelSelector | Mapping[str, str]


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
        field_validation: FieldValidation | None = None,
        dry_run: bool = False,
    ) -> None:
        """``field_manager`` is the owner of the fields that are written, in the objects' ``managedFields``.

        With ``dry_run`` the server checks and answers every write and keeps none. ``field_validation`` is the server's own
        by default, which warns.
        """
        self.rest = rest
        self._fence = fence
        self._observer: WriteObserver = _NoObserver() if observer is None or dry_run else observer
        self._shown = observer
        self._field_manager = field_manager
        self._field_validation = field_validation
        self._dry_run = dry_run

    def with_options(
        self,
        *,
        field_manager: str | None = None,
        field_validation: FieldValidation | None = None,
        dry_run: bool | None = None,
    ) -> Client:
        """A client that differs in these and shares everything else, the connections and the fence among it."""
        return Client(
            self.rest,
            fence=self._fence,
            observer=self._shown,
            field_manager=field_manager or self._field_manager,
            field_validation=field_validation or self._field_validation,
            dry_run=self._dry_run if dry_run is None else dry_run,
        )

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        answer = await self.rest.send("GET", resource.path(namespace, name))
        return decode(resource, answer.body)

    async def list(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        labels: Selector | None = None,
        fields: FieldSelector | None = None,
    ) -> list[T]:
        """All objects as of now, read in pages; from all namespaces where ``namespace`` is empty."""
        found: list[T] = []
        query = _selection(labels, fields)
        async for page in list_pages(self.rest, resource, resource.path(namespace), query):
            if page.restarted:
                found.clear()
            found.extend(Stored(resource, bytes(item)).decode() for item in page.items)
        return found

    async def pages(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        labels: Selector | None = None,
        fields: FieldSelector | None = None,
        size: int = PAGE_SIZE,
    ) -> AsyncGenerator[Sequence[T], None]:
        """The objects of one list, a page at a time, so that no more than a page is held; each object comes once.

        All pages are of one version. Where the server forgets it in between, those that came are left out of the rest.
        """
        seen: set[Key] = set()
        query = _selection(labels, fields)
        pages = list_pages(self.rest, resource, resource.path(namespace), query, limit=size)
        async with aclosing(pages):
            async for page in pages:
                stored = [Stored(resource, bytes(item)) for item in page.items]
                yield [item.decode() for item in stored if item.key not in seen]
                seen.update(item.key for item in stored)

    def watch(
        self,
        resource: Resource[T],
        namespace: str = "",
        *,
        labels: Selector | None = None,
        fields: FieldSelector | None = None,
        resource_version: str = "",
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """The events after ``resource_version``, or what there is and then its changes, until the server ends the watch.

        Use it in ``async with aclosing(…)``. Raises Expired where the version is too old. It ends when its connection does:
        what has to follow for long is a controller's cache.
        """
        query = _selection(labels, fields)
        if resource_version:
            query["resourceVersion"] = resource_version
        return watching.watch(self.rest, resource, namespace, query)

    async def wait_for(
        self,
        resource: Resource[T],
        name: str,
        condition: Callable[[T | None], object],
        namespace: str = "",
        *,
        timeout: float,
    ) -> T | None:
        """The object in the first state for which ``condition`` is true; it is called with None where there is none.

        Raises TimeoutError after ``timeout`` seconds. What breaks on the way is waited out.
        """
        async with asyncio.timeout(timeout):
            return await watching.wait_until(self.rest, resource, name, namespace, condition)

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

    @overload
    async def patch(
        self,
        resource: Resource[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str = "",
        subresource: Literal["", "status"] = "",
        kind: PatchType = PatchType.MERGE,
    ) -> T: ...

    @overload
    async def patch(
        self,
        resource: Resource[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str = "",
        subresource: str,
        kind: PatchType = PatchType.MERGE,
    ) -> T | Manifest: ...

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str = "",
        subresource: str = "",
        kind: PatchType = PatchType.MERGE,
    ) -> T | Manifest:
        """Change the object by a patch; a resource version in ``patch`` makes it conditional (Conflict).

        So does a ``test`` in a JSON patch. The answer to a patch of a ``subresource`` of another kind, such as ``scale``,
        is a manifest of that kind.
        """
        path = resource.path(namespace, name, subresource)
        data = msgspec.json.encode(patch)
        try:
            answer = await self._send("PATCH", resource, path, data, kind.value)
        except Invalid as error:
            if kind is PatchType.JSON and test_failed(error, patch):
                raise Conflict(
                    f"{resource.group_resource} {name}: not as the patch expects: {error.message}"
                ) from error
            raise
        if subresource in ("", "status") or is_of(resource, answer):
            return decode(resource, answer)
        return msgspec.json.decode(answer, type=Manifest)

    async def server_side_apply(
        self,
        resource: Resource[T],
        obj: T,
        *,
        field_manager: str = "",
        force: bool = False,
        subresource: Literal["", "status"] = "",
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
        query = self._query() | {"force": "true" if force else "false"}
        if field_manager:
            query["fieldManager"] = field_manager
        # JSON is YAML.
        data = msgspec.json.encode(manifest)
        return await self._write("PATCH", resource, path, data, content_type=PatchType.APPLY.value, query=query)

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
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = self._delete_options(propagation, grace_period)
        if any(preconditions.values()):
            options["preconditions"] = {name: value for name, value in preconditions.items() if value}
        data = msgspec.json.encode(options)
        answer = await self.rest.send("DELETE", resource.path(namespace, name), body=data, guard=self._fence)
        try:
            if is_of(resource, answer.body):
                self._observer.written(resource, answer.body)
                return
            gone = deleted_uid(answer.body)
        except UNDECODABLE as error:
            raise DecodeError(f"the server's answer to a deletion is not JSON: {error}") from error
        if gone:
            self._observer.deleted(resource, Key(namespace if resource.namespaced else "", name), gone)

    async def delete_collection(
        self,
        resource: Resource[Any],
        namespace: str = "",
        *,
        labels: Selector | None = None,
        fields: FieldSelector | None = None,
        propagation: str | None = None,
        grace_period: int | None = None,
    ) -> None:
        """Ask for the deletion of all objects that match; where nothing is said, of all there are.

        The cache learns of it by its watch. Raises ValueError for a namespaced resource without a namespace.
        """
        if resource.namespaced and not namespace:
            raise ValueError(f"{resource.group_resource} are deleted in one namespace at a time: name it")
        data = msgspec.json.encode(self._delete_options(propagation, grace_period))
        query = _selection(labels, fields)
        await self.rest.send("DELETE", resource.path(namespace), body=data, query=query, guard=self._fence)

    def _delete_options(self, propagation: str | None, grace_period: int | None) -> dict[str, Any]:
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if grace_period is not None:
            options["gracePeriodSeconds"] = grace_period
        if self._dry_run:
            options["dryRun"] = ["All"]
        return options

    def _query(self) -> dict[str, str]:
        query = {"fieldManager": self._field_manager}
        if self._field_validation:
            query["fieldValidation"] = self._field_validation
        if self._dry_run:
            query["dryRun"] = "All"
        return query

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
        answer = await self._send(method, resource, path, data, content_type, query)
        return decode(resource, answer)

    async def _send(
        self,
        method: str,
        resource: Resource[Any],
        path: str,
        data: bytes,
        content_type: str,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """The answer to a write, once the observer has been shown it."""
        answer = await self.rest.send(
            method, path, body=data, content_type=content_type, query=query or self._query(), guard=self._fence
        )
        try:
            of_kind = is_of(resource, answer.body)
        except UNDECODABLE as error:
            raise DecodeError(f"the server's answer is not a {resource.kind}: {error}") from error
        if of_kind:
            self._observer.written(resource, answer.body)
        return answer.body


def _selection(labels: Selector | None, fields: FieldSelector | None) -> dict[str, str]:
    query: dict[str, str] = {}
    if labels:
        query["labelSelector"] = str(labels if isinstance(labels, LabelSelector) else LabelSelector.of(labels))
    if fields:
        query["fieldSelector"] = str(fields)
    return query


def meta_of(resource: Resource[T], obj: T) -> ObjectMeta:
    """The metadata of an object of any resource. Raises DecodeError."""
    return decode_meta(resource.encode(obj))
