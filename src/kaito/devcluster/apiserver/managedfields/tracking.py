"""What the API server does about ownership when an object is written.

Fields are tracked from the first server-side apply of their object on, so that other writes cost nothing. What was there by
then belongs to ``before-first-apply``, and what ``kubectl apply`` has noted as applied to ``kubectl-client-side-apply``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from kaito.devcluster.apiserver.managedfields import fields, owners
from kaito.devcluster.apiserver.managedfields.fields import FieldSet
from kaito.devcluster.apiserver.managedfields.merge import Difference, Untyped, compare, fields_of, merge, prune
from kaito.devcluster.apiserver.managedfields.owners import APPLY, UPDATE, Owned, Owner, Owners
from kaito.devcluster.apiserver.store import Object, encode, same
from kaito.runtime import Conflict, InternalError

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.registry import Kind

BEFORE: Final = "before-first-apply"
CLIENT_SIDE: Final = "kubectl-client-side-apply"
KUBECTL: Final = "kubectl"
"""The manager of ``kubectl apply --server-side``, which may take over what ``kubectl apply`` has applied."""
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_STATUS: Final = fields.field("status")
_METADATA: Final = fields.field("metadata")
_ANNOTATION: Final = (_METADATA, fields.field("annotations"), fields.field(LAST_APPLIED))
_OWNERLESS: Final = frozenset(
    {(fields.field("apiVersion"),), (fields.field("kind"),), (_METADATA,)}
    | {
        (_METADATA, fields.field(name))
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        )
    }
)


def track_create(kind: Kind, obj: Object, config: Object, manager: str, now: str) -> None:
    """Note the owner of an object that an apply of ``config`` makes."""
    owner = Owner(APPLY, manager)
    mine = _tracked(_fields_of(kind, config), kind, "")
    obj["metadata"]["managedFields"] = owners.encode({owner: Owned(mine, kind.info.api_version, now)})


def track_update(kind: Kind, obj: Object, old: Object, manager: str, subresource: str, now: str) -> None:
    """Move ownership to who has made ``obj`` of ``old``; nothing for an object that is not tracked."""
    given = obj["metadata"].pop("managedFields", None)
    held = old["metadata"].get("managedFields")
    if given == [{}]:
        return
    before = held if subresource else given or held
    if not before:
        return
    try:
        known = owners.decode(before)
    except ValueError:
        known = owners.decode(held)
    owner = Owner(UPDATE, manager, kind.info.api_version, subresource)
    after = owners.updated(known, owner, _difference(kind, old, obj, subresource), now)
    if after:
        unchanged = held is not None and after == owners.decode(held)
        obj["metadata"]["managedFields"] = held if unchanged else owners.encode(after)


def applied(
    kind: Kind, live: Object, config: Object, manager: str, *, subresource: str = "", force: bool = False, now: str
) -> Object:
    """``live`` after ``manager`` has applied ``config``, with the owners of its fields.

    Raises Conflict that names fields and owners, InternalError for a configuration that the schema cannot take.
    """
    owner = Owner(APPLY, manager, subresource=subresource)
    known = _known(kind, live, now)
    wanted = _part(config, subresource)
    mine = _tracked(_fields_of(kind, wanted), kind, subresource)
    held = known.get(owner)
    others = {other: owned for other, owned in known.items() if other != owner}
    root = kind.schema.root
    obj: Object = merge(root, live, wanted)
    if held is not None:
        obj = prune(root, obj, held.fields, mine | owners.union(others.values()))
    difference = _difference(kind, live, obj, subresource)
    found = owners.conflicts(known, owner, difference)
    if found and not force and not (manager == KUBECTL and _may_take(kind, live, found)):
        raise _conflict(found)
    after = owners.moved(known, owner, difference)
    after.pop(owner, None)
    if manager == KUBECTL and not subresource and _last_applied(live) is not None:
        obj["metadata"] = {**obj["metadata"], "annotations": {**obj["metadata"].get("annotations", {})}}
        obj["metadata"]["annotations"][LAST_APPLIED] = encode(config).decode() + "\n"
    unchanged = held is not None and held.fields == mine and same(live, obj)
    if mine:
        after[owner] = held if unchanged and held is not None else Owned(mine, kind.info.api_version, now)
    before = live["metadata"].get("managedFields")
    tracked = before if unchanged and owners.decode(before) == after else owners.encode(after)
    obj["metadata"] = {**obj["metadata"], "managedFields": tracked}
    return obj


def _known(kind: Kind, live: Object, now: str) -> Owners:
    """The owners of an object, or those with whom tracking begins."""
    held = live["metadata"].get("managedFields")
    if held:
        return owners.decode(held)
    version = kind.info.api_version
    everything = _there(kind, live)
    noted = _last_applied(live)
    client_side = (_there(kind, noted) | {_ANNOTATION}) & everything if noted is not None else fields.NOTHING
    status = fields.below(everything, _STATUS) if kind.has_status else fields.NOTHING
    found = {
        Owner(UPDATE, CLIENT_SIDE, version): Owned(client_side, version, now),
        Owner(UPDATE, BEFORE, version): Owned(everything - client_side - status, version, now),
        Owner(UPDATE, BEFORE, version, "status"): Owned(status, version, now),
    }
    return {owner: owned for owner, owned in found.items() if owned.fields}


def _there(kind: Kind, obj: Object) -> FieldSet:
    return frozenset(compare(kind.schema.root, {}, obj).changed) - _OWNERLESS


def _part(config: Object, subresource: str) -> Object:
    """What of a configuration is for the object, or for its status."""
    if subresource == "status":
        return {"status": config["status"]} if "status" in config else {}
    return config


def _fields_of(kind: Kind, config: Object) -> FieldSet:
    try:
        return fields_of(kind.schema.root, config)
    except Untyped as error:
        raise untyped(kind, config, str(error)) from error


def untyped(kind: Kind, config: Object, why: str) -> InternalError:
    """What kube-apiserver says to a configuration that it cannot read by the kind's schema."""
    metadata, info = config.get("metadata") or {}, kind.info
    named = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
    return InternalError(
        f"failed to create typed patch object ({named}; {info.api_version}, Kind={info.kind}): {why}",
    )


def _tracked(found: FieldSet, kind: Kind, subresource: str) -> FieldSet:
    """Without what nobody owns by way of this endpoint."""
    found -= _OWNERLESS
    if subresource == "status":
        return fields.below(found, _STATUS)
    return found - fields.below(found, _STATUS) if kind.has_status else found


def _difference(kind: Kind, old: Object, new: Object, subresource: str) -> Difference:
    found = compare(kind.schema.root, old, new)
    return Difference(
        set(_changed_by(frozenset(found.changed), kind, subresource)),
        set(_changed_by(frozenset(found.removed), kind, subresource)),
    )


def _changed_by(found: FieldSet, kind: Kind, subresource: str) -> FieldSet:
    managed = fields.below(found, _METADATA, fields.field("managedFields"))
    return _tracked(found, kind, subresource) - managed


def _last_applied(live: Object) -> Object | None:
    """What ``kubectl apply`` has noted, if it can be read."""
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if not text:
        return None
    try:
        noted: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return noted if isinstance(noted, dict) else None


def _may_take(kind: Kind, live: Object, found: dict[Owner, FieldSet]) -> bool:
    """Whether all that conflicts was applied by ``kubectl apply``, and is still as it was applied."""
    noted = _last_applied(live)
    if noted is None:
        return False
    difference = compare(kind.schema.root, noted, live)
    mine = (_there(kind, noted) | {_ANNOTATION}) - difference.changed - difference.removed | {_ANNOTATION}
    return all(shared <= mine for shared in found.values())


def _conflict(found: dict[Owner, FieldSet]) -> Conflict:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": fields.shown(path)}
        for owner, path in owners.conflict_list(found)
    ]
    return Conflict(owners.conflict_message(found), details={"causes": causes})
