"""A Kubernetes API in memory, on which the real client, cache and manager run without sockets.

It keeps what controllers rely on: resource versions and conflicts, uids, generations, status apart from the rest,
finalizers, selectors, pages, watches that expire, dry runs, merge and JSON patches. It does not validate, default or admit
anything, has no permissions and no garbage collection, and refuses (501) what it does not do: strategic merge patches,
server-side apply, subresources but status.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast, final

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from kaito.runtime.clock import Clock
from kaito.runtime.errors import BadRequest, Expired, Invalid, NotFound, NotImplementedByServer
from kaito.runtime.manager.manager import Manager
from kaito.runtime.manager.options import ManagerOptions
from kaito.runtime.objects import resource as resources
from kaito.runtime.objects.resource import Key, Manifest, Resource
from kaito.runtime.testing.clock import VirtualClock
from kaito.runtime.testing.faults import Call, Interceptor
from kaito.runtime.testing.storage import Selection, Storage
from kaito.runtime.transport.client import Client, PatchType
from kaito.runtime.transport.config import RestConfig
from kaito.runtime.transport.connections import Pool
from kaito.runtime.transport.rest import Answer, Rest

_BUILT_IN = tuple(value for value in vars(resources).values() if isinstance(value, Resource))
_NO_HEADERS = CIMultiDictProxy(CIMultiDict[str]())
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OFFLINE = ManagerOptions(metrics_address="0", health_address="0")


@final
class FakeServer:
    """Knows the runtime's own resources and those it is given. ``client`` and ``manager`` reach it; tests may use both."""

    def __init__(self, *known: Resource[Any], clock: Clock | None = None) -> None:
        self.clock: Clock = clock or VirtualClock()
        self._storage = Storage(self.clock)
        self._resources = (*_BUILT_IN, *known)
        self._interceptors: list[Interceptor] = []
        self.calls: list[Call] = []
        """Every call so far, also those that failed."""
        self.config = RestConfig(server="http://fake.invalid")
        self.rest = cast(Rest, _FakeRest(self))
        self.client = Client(self.rest)

    def manager(self, options: ManagerOptions | None = None) -> Manager:
        """A manager on this server, by default without probes and metrics."""
        return Manager(self.config, options or _OFFLINE, clock=self.clock, rest=self.rest)

    def intercept(self, interceptor: Interceptor) -> Callable[[], None]:
        """Let every call pass ``interceptor``, the newest first; what is returned takes it away again."""
        self._interceptors.insert(0, interceptor)

        def remove() -> None:
            if interceptor in self._interceptors:
                self._interceptors.remove(interceptor)

        return remove

    def compact(self) -> None:
        """Forget the history: watches and pages from before expire."""
        self._storage.compact()

    async def call(self, call: Call, guard: Callable[[], None]) -> Any:
        """The answer of one call, as plain values."""
        self.calls.append(call)

        async def carry_out() -> Any:
            guard()
            return self._carry_out(call)

        proceed: Callable[[], Any] = carry_out
        for interceptor in reversed(self._interceptors):
            proceed = _passing(interceptor, call, proceed)
        return await proceed()

    def resolve(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Call:
        """Raises NotFound for a path of no known resource."""
        parts = [*path.strip("/").split("/"), "", ""]
        group, version, rest = ("", parts[1], parts[2:-2]) if parts[0] == "api" else (parts[1], parts[2], parts[3:-2])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = [*rest, "", "", ""][:3]
        for resource in self._resources:
            if (resource.group, resource.version, resource.plural) == (group, version, plural):
                break
        else:
            raise NotFound("the server could not find the requested resource")
        verb = _VERBS[method]
        if not name:
            verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
        if verb == "list" and query.get("watch") == "true":
            verb = "watch"
        return Call(verb, resource, Key(namespace, name), subresource, dict(query), body)

    def _carry_out(self, call: Call) -> Any:
        resource, key, storage = call.resource, call.key, self._storage
        options = call.body if call.verb in ("delete", "deletecollection") and call.body else {}
        dry = "All" in (call.query.get("dryRun"), *(options.get("dryRun") or ()))
        if call.subresource not in ("", "status"):
            raise NotImplementedByServer(f"the fake server has no subresource {call.subresource}")
        match call.verb:
            case "get":
                return storage.get(resource, key)
            case "list":
                return self._list(call)
            case "watch":
                if call.query.get("sendInitialEvents") == "true":
                    raise Invalid("sendInitialEvents: Forbidden: the fake server streams no lists")
                return self._events(call)
            case "create":
                return storage.create(resource, key.namespace, call.body, dry_run=dry)
            case "update":
                return storage.change(resource, key, call.subresource, lambda old: call.body, dry_run=dry)
            case "patch":
                kind, patch = call.query["patch"], call.body
                return storage.change(
                    resource, key, call.subresource, lambda old: _patched(old, patch, kind), dry_run=dry
                )
            case "delete":
                uid = storage.get(resource, key)["metadata"]["uid"]
                left = storage.delete(resource, key, options, dry_run=dry)
                return left or {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"uid": uid}}
            case _:
                for obj in storage.list(resource, Selection.of(key.namespace, call.query)):
                    metadata = obj["metadata"]
                    one = Key(metadata.get("namespace", ""), metadata["name"])
                    storage.delete(resource, one, {}, dry_run=dry)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _list(self, call: Call) -> Manifest:
        found = self._storage.list(call.resource, Selection.of(call.key.namespace, call.query))
        version = self._storage.version
        if token := call.query.get("continue"):
            then, _, last = token.partition(" ")
            if int(then) < self._storage.compacted:
                raise Expired("the continue token is too old")
            found = [obj for obj in found if f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}" > last]
        metadata = {"resourceVersion": str(version)}
        limit = int(call.query.get("limit", "0"))
        if limit and len(found) > limit:
            found = found[:limit]
            final = found[-1]["metadata"]
            metadata["continue"] = f"{version} {final.get('namespace', '')}/{final['name']}"
        kind, api_version = f"{call.resource.kind}List", call.resource.api_version
        return {"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": found}

    async def _events(self, call: Call) -> AsyncGenerator[list[bytes], None]:
        """The lines of a watch, until it is left."""
        storage, selection = self._storage, Selection.of(call.key.namespace, call.query)
        version = int(call.query.get("resourceVersion") or 0)
        changed = storage.subscribe()
        try:
            if not version:
                version = storage.version
                yield [_line("ADDED", obj) for obj in storage.list(call.resource, selection)]
            while True:
                lines = []
                for change in storage.since(call.resource, version):
                    version = change.version
                    if (event := selection.event(change)) is not None:
                        lines.append(_line(*event))
                version = max(version, storage.version)
                if lines:
                    yield lines
                await changed.wait()
                changed.clear()
        except Expired as error:
            yield [_line("ERROR", error.status())]
        finally:
            storage.unsubscribe(changed)


def _passing(interceptor: Interceptor, call: Call, proceed: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: interceptor(call, proceed)


def _line(kind: str, obj: Manifest) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj})


def _patched(obj: Manifest, patch: Any, kind: str) -> Manifest:
    if kind == PatchType.MERGE:
        return cast(Manifest, _merged(obj, patch))
    if kind != PatchType.JSON:
        raise NotImplementedByServer(f"the fake server does not do {kind}")
    import jsonpatch

    for operation in patch:
        try:
            obj = jsonpatch.apply_patch(obj, [operation])
        except jsonpatch.JsonPatchTestFailed as error:
            cause = {"reason": "UnexpectedServerResponse", "message": f"{operation['path']}: test failed"}
            raise Invalid("the patch does not fit the object", details={"causes": [cause]}) from error
        except jsonpatch.JsonPatchException as error:
            cause = {"reason": "UnexpectedServerResponse", "message": str(error)}
            raise Invalid("the patch does not fit the object", details={"causes": [cause]}) from error
    return obj


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


@final
class _FakeStream:
    """What ``Rest.stream`` gives, without a connection."""

    def __init__(self, events: AsyncGenerator[list[bytes], None]) -> None:
        self._events = events

    async def lines(self) -> list[bytes] | None:
        return await anext(self._events, None)


@final
class _FakeRest:
    """Stands in for ``Rest``: the same calls and errors, without HTTP."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.config = server.config

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 60.0,
        patient: bool = False,
        pool: Pool = Pool.API,
        guard: Callable[[], None] = lambda: None,
        wait: bool = True,
    ) -> Answer:
        guard()
        try:
            decoded = None if body is None else msgspec.json.decode(body)
        except ValueError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        asked = dict(query or {})
        if method == "PATCH":
            asked["patch"] = content_type
        # As with a real server, others have their turn before it answers.
        await asyncio.sleep(0)
        answer = await self._server.call(self._server.resolve(method, path, asked, decoded), guard)
        return Answer(201 if method == "POST" else 200, _NO_HEADERS, msgspec.json.encode(answer))

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, accept: str = "application/json"
    ) -> AsyncIterator[_FakeStream]:
        call = self._server.resolve("GET", path, query, None)
        await asyncio.sleep(0)
        events = await self._server.call(call, lambda: None)
        try:
            yield _FakeStream(events)
        finally:
            await events.aclose()

    async def aclose(self) -> None:
        pass
