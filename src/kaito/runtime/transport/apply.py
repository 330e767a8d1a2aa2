"""Make an object as it should be, whether it exists or not, and write only where something would change."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeVar

import msgspec

from kaito.runtime.errors import NotFound
from kaito.runtime.objects.resource import Key, Manifest, Resource
from kaito.runtime.objects.semantics import equal, merge_patch
from kaito.runtime.objects.stored import decode_meta
from kaito.runtime.transport.client import Client

T = TypeVar("T")

Mutate = Callable[[T], T]
"""An object to the object as it should be; it may change and return its argument. Name and namespace must stay."""


class OperationResult(enum.StrEnum):
    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    UPDATED_STATUS = "updatedStatus"
    """The object and its status."""
    UPDATED_STATUS_ONLY = "updatedStatusOnly"


async def create_or_update(
    client: Client, resource: Resource[T], obj: T, mutate: Mutate[T]
) -> tuple[T, OperationResult]:
    """``mutate`` the stored object of ``obj``'s name, or ``obj`` itself where there is none, and write it by PUT.

    The object as stored afterwards, and what was done. Status is left alone. Raises Conflict or AlreadyExists where
    somebody else was faster, ValueError where ``mutate`` changes name or namespace, and what ``mutate`` raises.
    """
    current = await _get(client, resource, obj)
    if current is None:
        desired, _ = _mutated(resource, obj, mutate)
        return await client.create(resource, desired), OperationResult.CREATED
    before = _plain(resource, current)
    desired, after = _mutated(resource, current, mutate)
    if equal(_without_status(before), _without_status(after), group=resource.group, kind=resource.kind):
        return current, OperationResult.UNCHANGED
    return await client.update(resource, desired), OperationResult.UPDATED


async def create_or_patch(
    client: Client, resource: Resource[T], obj: T, mutate: Mutate[T]
) -> tuple[T, OperationResult]:
    """As ``create_or_update``, but writes only the difference, by merge patch, and the status as well.

    Fields that ``resource``'s type does not know survive. Unlike an update, a patch does not notice what others have written
    since the object was read, and lists are replaced as a whole. Only for resources with a status subresource, where
    ``mutate`` touches the status.
    """
    current = await _get(client, resource, obj)
    if current is None:
        desired, after = _mutated(resource, obj, mutate)
        created = await client.create(resource, desired)
        # A server ignores the status of a new object; it has to be written by itself.
        written = await _patch_status(client, resource, created, {}, after)
        return created if written is None else written, OperationResult.CREATED
    before = _plain(resource, current)
    _, after = _mutated(resource, current, mutate)
    patch = merge_patch(_without_status(before), _without_status(after), group=resource.group, kind=resource.kind)
    result, latest = OperationResult.UNCHANGED, current
    if patch:
        meta = decode_meta(msgspec.json.encode(before))
        latest = await client.patch(resource, meta.name, patch, namespace=meta.namespace)
        result = OperationResult.UPDATED
    written = await _patch_status(client, resource, latest, before, after)
    if written is None:
        return latest, result
    return written, OperationResult.UPDATED_STATUS if patch else OperationResult.UPDATED_STATUS_ONLY


async def _get(client: Client, resource: Resource[T], obj: T) -> T | None:
    meta = decode_meta(resource.encode(obj))
    if not meta.name:
        raise ValueError(f"the {resource.kind} has no name: without one there is nothing to look for")
    try:
        return await client.get(resource, meta.name, meta.namespace)
    except NotFound:
        return None


def _mutated(resource: Resource[T], obj: T, mutate: Mutate[T]) -> tuple[T, Manifest]:
    """Called with a copy, so that what ``obj`` was stays known."""
    data = resource.encode(obj)
    desired = mutate(resource.decode(data))
    plain = _plain(resource, desired)
    before, after = decode_meta(data).key, Key(*_identity(plain))
    if after != before:
        raise ValueError(f"{resource.kind} {before}: mutate made it {after}, but name and namespace may not change")
    return desired, plain


def _identity(manifest: Manifest) -> tuple[str, str]:
    metadata = manifest.get("metadata") or {}
    return metadata.get("namespace") or "", metadata.get("name") or ""


def _plain(resource: Resource[T], obj: T) -> Manifest:
    return msgspec.json.decode(resource.encode(obj), type=Manifest)


def _without_status(manifest: Manifest) -> Manifest:
    return {name: value for name, value in manifest.items() if name != "status"}


async def _patch_status(
    client: Client, resource: Resource[T], latest: T, before: Manifest, after: Manifest
) -> T | None:
    """None where there is nothing to write."""
    old, new = ({"status": manifest.get("status") or {}} for manifest in (before, after))
    patch = merge_patch(old, new, group=resource.group, kind=resource.kind)
    if not patch:
        return None
    meta = decode_meta(resource.encode(latest))
    return await client.patch(resource, meta.name, patch, namespace=meta.namespace, subresource="status")
