"""The kinds of object that are measured, and the one place that makes and changes them on a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from hack.bench import pods, widgets
from hack.bench.names import NAMESPACE, POD, STAMP, WIDGET, Names
from kaito.runtime import (
    NAMESPACES,
    PODS,
    AlreadyExists,
    Client,
    Manifest,
    NotFound,
    PatchType,
    Resource,
    manifest_resource,
    metadata_resource,
)

_WRITERS = 16


@dataclass(frozen=True)
class Kind:
    names: Names
    title: str
    """What its objects are called in the results."""
    resource: Resource[Manifest]
    surroundings: Callable[[], list[tuple[Resource[Manifest], Manifest]]]
    """What has to exist before the first object, in this order."""
    build: Callable[[int, Mapping[str, str]], Manifest]
    """The object of a number; the mapping has the uids of the surroundings by name."""


KINDS = {
    kind.names.plural: kind
    for kind in (
        Kind(
            WIDGET,
            "custom resources",
            manifest_resource(WIDGET.group, WIDGET.version, WIDGET.kind, WIDGET.plural),
            widgets.surroundings,
            lambda number, _: widgets.widget(number),
        ),
        Kind(POD, "pods", PODS, pods.surroundings, pods.pod),
    )
}


async def load(client: Client, kind: Kind, count: int) -> int:
    """Bring the number of objects to ``count``. Returns the size of one of them as the server holds it, in bytes."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    uids = {
        body["metadata"]["name"]: await _ensure(client, resource, body)
        for resource, body in [(NAMESPACES, namespace), *kind.surroundings()]
    }
    existing = await _existing(client, kind)
    wanted = {kind.names.of(number): number for number in range(count)}
    surplus = iter(existing - wanted.keys())
    missing = iter([number for name, number in wanted.items() if name not in existing])

    async def write() -> None:
        for name in surplus:
            await client.delete(kind.resource, name, NAMESPACE, grace_period=0)
        for number in missing:
            await _create(client, kind, kind.build(number, uids))

    async with asyncio.TaskGroup() as group:
        for _ in range(_WRITERS):
            group.create_task(write())
    answer = await client.rest.send("GET", kind.resource.path(NAMESPACE, kind.names.of(count - 1)))
    return len(answer.body)


async def _ensure(client: Client, resource: Resource[Manifest], body: Manifest) -> str:
    """Create the object unless it is there; its uid."""
    try:
        found = await client.create(resource, body)
    except AlreadyExists:
        found = await client.get(resource, body["metadata"]["name"], NAMESPACE)
    return str(found["metadata"]["uid"])


async def _existing(client: Client, kind: Kind) -> set[str]:
    async with asyncio.timeout(30):
        while True:
            try:
                return {meta.name for meta in await client.list(metadata_resource(kind.resource), NAMESPACE)}
            except NotFound:
                await asyncio.sleep(0.1)  # a new custom resource is not served yet


async def _create(client: Client, kind: Kind, body: Manifest) -> None:
    """Servers drop the status of a new object of a kind whose status is a subresource: then it is written there."""
    created = await client.create(kind.resource, body)
    status = body.get("status", {})
    if not status.keys() <= created.get("status", {}).keys():
        name = body["metadata"]["name"]
        await client.patch(kind.resource, name, {"status": status}, namespace=NAMESPACE, subresource="status")


async def touch(client: Client, kind: Kind, number: int) -> None:
    """Change one object, and say in it when."""
    patch = {"metadata": {"annotations": {STAMP: str(time.monotonic_ns())}}}
    # The answer is not decoded: the writer should cost as little as it can.
    await client.rest.send(
        "PATCH",
        kind.resource.path(NAMESPACE, kind.names.of(number)),
        body=msgspec.json.encode(patch),
        content_type=PatchType.MERGE.value,
    )
