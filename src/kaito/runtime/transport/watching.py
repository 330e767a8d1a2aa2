"""Following a resource without a cache: a plain watch, and waiting for one object to become as it should be.

For tests, scripts and one-off waits. Whatever has to know the state of many objects for long wants an informer: it repairs a
watch that breaks, and this does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, NamedTuple, TypeVar

import msgspec

from kaito.runtime.backoff import REFLECTOR_BACKOFF, Backoff
from kaito.runtime.errors import UNDECODABLE, ApiError, DecodeError, Expired, InternalError, TransportError
from kaito.runtime.objects.resource import Resource
from kaito.runtime.objects.selectors import FieldSelector, FieldTerm
from kaito.runtime.objects.stored import Stored
from kaito.runtime.transport.pager import list_pages
from kaito.runtime.transport.rest import Rest

T = TypeVar("T")


class WatchEvent(NamedTuple, Generic[T]):
    type: str
    """ADDED, MODIFIED or DELETED."""
    object: T


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


_LINE = msgspec.json.Decoder(_Line)


async def watch(
    rest: Rest, resource: Resource[T], namespace: str, query: dict[str, str]
) -> AsyncGenerator[WatchEvent[T], None]:
    """The events of one watch until the server ends it. Raises ApiError (Expired where the version is gone), TransportError,
    DecodeError. Close the generator: it holds a connection."""
    async with rest.stream(resource.path(namespace), {"watch": "true", **query}) as stream:
        while (lines := await stream.lines()) is not None:
            for line in lines:
                event = _opened(resource, line)
                if event is not None:
                    yield event


def _opened(resource: Resource[T], line: bytes) -> WatchEvent[T] | None:
    try:
        event = _LINE.decode(line)
        if event.type == "ERROR":
            raise ApiError.from_status(msgspec.json.decode(event.object, type=dict), code=InternalError.code)
        if event.type == "BOOKMARK":
            return None
        return WatchEvent(event.type, Stored(resource, bytes(event.object)).decode())
    except UNDECODABLE as error:
        raise DecodeError(f"the watch of {resource.group_resource} sent something else: {error}") from error


async def wait_until(
    rest: Rest, resource: Resource[T], name: str, namespace: str, condition: Callable[[T | None], object]
) -> T | None:
    """The object in the first state for which ``condition`` is true; None stands for no object.

    Breaks of the connection are waited out. Raises what ``condition`` raises, and ApiError where the server refuses.
    """
    query = {"fieldSelector": str(FieldSelector((FieldTerm("metadata.name", name, False),)))}
    backoff = Backoff(REFLECTOR_BACKOFF)
    while True:
        try:
            listed, version = await _now(rest, resource, namespace, query)
            found = listed[0] if listed else None
            if condition(found):
                return found
            async with aclosing(watch(rest, resource, namespace, {**query, "resourceVersion": version})) as events:
                async for event in events:
                    state = None if event.type == "DELETED" else event.object
                    if condition(state):
                        return state
        except (TransportError, Expired):
            await asyncio.sleep(backoff.next(asyncio.get_running_loop().time()))


async def _now(rest: Rest, resource: Resource[T], namespace: str, query: dict[str, str]) -> tuple[list[T], str]:
    found: list[T] = []
    version = ""
    async with aclosing(list_pages(rest, resource, resource.path(namespace), query)) as pages:
        async for page in pages:
            version = page.resource_version
            found = [Stored(resource, bytes(item)).decode() for item in page.items] or found
    return found, version
