"""Changes to an object that others change, too: finalizers, and trying again after a conflict."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from kaito.runtime.errors import Conflict
from kaito.runtime.objects.resource import Resource
from kaito.runtime.objects.stored import ObjectMeta
from kaito.runtime.transport.client import Client, PatchType

T = TypeVar("T")

CONFLICT_TRIES = 5
CONFLICT_DELAY = 0.01
"""Seconds, stretched by up to a tenth; client-go's DefaultRetry."""


async def add_finalizer(client: Client, resource: Resource[T], meta: ObjectMeta, finalizer: str) -> T | None:
    """Put ``finalizer`` on the object; None where it is there already. Raises Conflict where ``meta`` is out of date."""
    if finalizer in meta.finalizers:
        return None
    return await _set_finalizers(client, resource, meta, [*meta.finalizers, finalizer])


async def remove_finalizer(client: Client, resource: Resource[T], meta: ObjectMeta, finalizer: str) -> T | None:
    """Take ``finalizer`` off the object and leave all others; None where it is not there. Raises Conflict where ``meta`` is
    out of date, NotFound where the object is gone."""
    if finalizer not in meta.finalizers:
        return None
    return await _set_finalizers(client, resource, meta, [item for item in meta.finalizers if item != finalizer])


async def _set_finalizers(client: Client, resource: Resource[T], meta: ObjectMeta, finalizers: list[str]) -> T:
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
    ]
    return await client.patch(resource, meta.name, patch, namespace=meta.namespace, kind=PatchType.JSON)


async def retry_on_conflict(attempt: Callable[[], Awaitable[T]]) -> T:
    """Call ``attempt`` again after a Conflict, five times in all; it should read the object anew each time."""
    for _ in range(CONFLICT_TRIES - 1):
        try:
            return await attempt()
        except Conflict:
            await asyncio.sleep(CONFLICT_DELAY * random.uniform(1.0, 1.1))
    return await attempt()
