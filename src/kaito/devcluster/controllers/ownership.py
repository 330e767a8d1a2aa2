"""Which objects a controller's object owns: by controller reference, with adoption of orphans and release of strays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kaito.runtime import (
    Client,
    Conflict,
    Key,
    LabelSelector,
    Lister,
    Manifest,
    NotFound,
    ObjectMeta,
    Resource,
    Stored,
    owner_reference,
)


@dataclass(frozen=True, slots=True)
class Claims:
    owned: list[Stored[Manifest]]
    adopt: list[Stored[Manifest]]
    """Match the selector and have no controller."""
    release: list[Stored[Manifest]]
    """Have this controller and do not match its selector any more."""


def sort_claims(owner: ObjectMeta, selector: LabelSelector, candidates: Iterable[Stored[Manifest]]) -> Claims:
    """``candidates`` match the selector, or have the owner among their owners. One that is being deleted adopts and releases
    nothing."""
    claims = Claims([], [], [])
    for stored in candidates:
        matches = selector.matches(stored.labels)
        meta = stored.meta
        controller = meta.controller_owner
        if controller is None:
            if matches and not owner.deleting and not meta.deleting:
                claims.adopt.append(stored)
        elif controller.uid == owner.uid:
            if matches or owner.deleting:
                claims.owned.append(stored)
            else:
                claims.release.append(stored)
    return claims


async def claim(
    client: Client,
    owner_resource: Resource[Any],
    owner: ObjectMeta,
    selector: LabelSelector,
    resource: Resource[Manifest],
    lister: Lister[Manifest],
) -> list[Manifest]:
    """The objects of ``lister`` that ``owner`` owns, after adopting and releasing what is due."""
    found = (*lister.by_owner(owner.uid, owner.namespace), *lister.stored_list(owner.namespace, labels=selector))
    claims = sort_claims(owner, selector, {stored.key: stored for stored in found}.values())
    owned = [stored.decode() for stored in claims.owned]
    if claims.adopt and await _still_there(client, owner_resource, owner):
        for stored in claims.adopt:
            obj = stored.decode()
            references = [
                *(obj["metadata"].get("ownerReferences") or ()),
                owner_reference(owner_resource, owner),
            ]
            adopted = await _set_owners(client, resource, obj, references)
            if adopted is not None:
                owned.append(adopted)
    for stored in claims.release:
        obj = stored.decode()
        references = [item for item in obj["metadata"]["ownerReferences"] if item["uid"] != owner.uid]
        await _set_owners(client, resource, obj, references)
    return owned


async def _still_there(client: Client, resource: Resource[Any], owner: ObjectMeta) -> bool:
    """Asked of the server itself: an owner whose deletion has not been heard of yet must not adopt its orphans again."""
    try:
        live = await client.get(resource, owner.name, owner.namespace)
    except NotFound:
        return False
    metadata = live["metadata"]
    return bool(metadata["uid"] == owner.uid and "deletionTimestamp" not in metadata)


async def _set_owners(
    client: Client, resource: Resource[Manifest], obj: Manifest, references: list[Manifest]
) -> Manifest | None:
    metadata = obj["metadata"]
    patch = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": references or None,
        }
    }
    try:
        return await client.patch(resource, metadata["name"], patch, namespace=metadata["namespace"])
    except (NotFound, Conflict):
        # Whatever changed it causes another look.
        return None


def adopters(owners: Lister[Manifest]) -> Callable[[Stored[Any]], Iterable[Key]]:
    """A mapper from an object without controller to those of ``owners`` that select it, and may adopt it."""

    def keys(stored: Stored[Any]) -> Iterable[Key]:
        if not stored.labels or (b'"controller":true' in stored.data and stored.meta.controller_owner is not None):
            return
        for owner in owners.stored_list(stored.key.namespace):
            selector = LabelSelector.from_object(owner.decode()["spec"].get("selector"))
            if selector is not None and selector.matches(stored.labels):
                yield owner.key

    return keys
