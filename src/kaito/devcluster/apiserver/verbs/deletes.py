"""Deletion: preconditions, propagation policies, finalizers, grace periods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.verbs.writes import Writer, is_released
from kaito.runtime import BadRequest, Invalid

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.registry import Kind
    from kaito.devcluster.apiserver.store import Object, Record
    from kaito.devcluster.apiserver.wire.requests import Query

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_POLICIES = ("Orphan", "Background", "Foreground")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """``meta/v1 DeleteOptions``. ``grace_period`` is in seconds."""

    grace_period: int | None = None
    propagation: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False

    @staticmethod
    def parse(body: Any, query: Query) -> DeleteOptions:
        """From the request's body, where there is one, else from its query. Raises BadRequest or Invalid."""
        if body is None:
            body = {
                "gracePeriodSeconds": query.integer("gracePeriodSeconds"),
                "propagationPolicy": query.text("propagationPolicy") or None,
                "orphanDependents": query.optional_flag("orphanDependents"),
            }
        if not isinstance(body, dict):
            raise BadRequest("the body of a delete must be DeleteOptions")
        if body.get("kind") not in (None, "", "DeleteOptions"):
            raise BadRequest(f"the object provided is unrecognized: expected DeleteOptions, got {body['kind']}")
        grace, policy = body.get("gracePeriodSeconds"), body.get("propagationPolicy")
        orphan = body.get("orphanDependents")
        preconditions = body.get("preconditions") or {}
        if grace is not None and (not isinstance(grace, int) or grace < 0):
            raise Invalid(f"DeleteOptions is invalid: gracePeriodSeconds: Invalid value: {grace}: must not be negative")
        if policy is not None and policy not in _POLICIES:
            supported = ", ".join(f'"{name}"' for name in (*_POLICIES, "nil"))
            raise Invalid(
                f"DeleteOptions is invalid: propagationPolicy: Unsupported value: "
                f'"{policy}": supported values: {supported}'
            )
        if policy is not None and orphan is not None:
            raise Invalid(
                "DeleteOptions is invalid: propagationPolicy: Invalid value: orphanDependents and "
                "deletionPropagation cannot be both set"
            )
        if orphan is not None:
            policy = "Orphan" if orphan else "Background"
        dry_run = body.get("dryRun") or []
        if dry_run not in ([], ["All"]):
            raise Invalid('DeleteOptions is invalid: dryRun: Unsupported value: supported values: "All"')
        return DeleteOptions(
            grace,
            policy,
            preconditions.get("uid"),
            preconditions.get("resourceVersion"),
            bool(dry_run) or query.dry_run(),
        )


@dataclass(frozen=True, slots=True)
class Deleted:
    """``obj`` is the last or the remaining state; ``gone`` tells which."""

    obj: Object
    record: Record | None
    gone: bool


class Deleter:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def delete(self, kind: Kind, record: Record, options: DeleteOptions) -> Deleted:
        """Remove an object, or mark it as being deleted while finalizers or a grace period hold it. Raises ApiError."""
        old = kind.read(record)
        self._check(kind, record, old["metadata"], options)
        self._writer.admission.delete(kind, record)
        obj = kind.read(record)
        metadata = obj["metadata"]
        if "deletionTimestamp" in metadata:
            if not self._shorten(metadata, options):
                return Deleted(old, record, gone=False)
        else:
            self._mark(kind, obj, options)
        _set_finalizers(kind, metadata, options)
        if kind.info.group_resource == "namespaces":
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        gone = is_released(kind, obj)
        if options.dry_run:
            return Deleted(obj, None, gone)
        if gone:
            self._writer.remove(kind, record)
            return Deleted(old, record, gone=True)
        written = self._writer.store(kind, record, obj, old)
        return Deleted(written.obj, written.record, gone=False)

    def _check(self, kind: Kind, record: Record, held: dict[str, Any], options: DeleteOptions) -> None:
        for name, wanted, have, hint in (
            ("UID", options.uid, held["uid"], "deleted and then recreated"),
            ("ResourceVersion", options.resource_version, held["resourceVersion"], "modified"),
        ):
            if wanted and wanted != have:
                raise meta.conflict(
                    kind.info,
                    record.name,
                    f"the {name} in the precondition ({wanted}) does not match the {name} in record ({have}). "
                    f"The object might have been {hint}",
                )

    def _mark(self, kind: Kind, obj: Object, options: DeleteOptions) -> None:
        metadata = obj["metadata"]
        grace = kind.strategy.grace_period(obj, options.grace_period)
        metadata["deletionTimestamp"] = meta.timestamp(self._writer.clock() + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
        if kind.strategy.deletion_finalizers:
            finalizers = (*(metadata.get("finalizers") or ()), *kind.strategy.deletion_finalizers)
            metadata["finalizers"] = list(dict.fromkeys(finalizers))
        if metadata.get("generation"):
            metadata["generation"] += 1

    def _shorten(self, metadata: dict[str, Any], options: DeleteOptions) -> bool:
        """Apply a further DELETE to an object under deletion; False when it changes nothing."""
        held = metadata.get("deletionGracePeriodSeconds") or 0
        if not held:
            return True
        if options.grace_period is None or options.grace_period >= held:
            return False
        due = datetime.strptime(metadata["deletionTimestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        metadata["deletionTimestamp"] = meta.timestamp(due - timedelta(seconds=held - options.grace_period))
        metadata["deletionGracePeriodSeconds"] = options.grace_period
        return True


def _set_finalizers(kind: Kind, metadata: dict[str, Any], options: DeleteOptions) -> None:
    """What the garbage collector is to do: the explicit policy, else the finalizer there is, else the kind's default."""
    finalizers = metadata.get("finalizers") or []
    policy = options.propagation
    if policy is None:
        if ORPHAN in finalizers or FOREGROUND in finalizers:
            return
        policy = kind.strategy.default_propagation
    kept = [name for name in finalizers if name not in (ORPHAN, FOREGROUND)]
    if policy != "Background":
        kept.append(ORPHAN if policy == "Orphan" else FOREGROUND)
    metadata.pop("finalizers", None)
    if kept:
        metadata["finalizers"] = kept


def deleted_status(kind: Kind, obj: Object) -> Object:
    """The Status that answers a completed deletion."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": meta.details(kind.info, obj["metadata"]["name"]) | {"uid": obj["metadata"]["uid"]},
    }
