"""Storage: claims, volumes and their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import same
from kaito.devcluster.apiserver.strategies.base import Strategy, set_default, spec_of

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Collection, Object


class PersistentVolumeClaimStrategy(Strategy):
    returns_deleted = True

    def default(self, obj: Object) -> None:
        set_default(obj.setdefault("spec", {}), volumeMode="Filesystem")

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        obj["status"] = {"phase": "Pending"}

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec = spec_of(obj)
        causes = (
            []
            if spec.get("accessModes")
            else [Cause.required("spec.accessModes", "at least 1 access mode is required")]
        )
        if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
            causes.append(Cause.required("spec.resources[storage]"))
        if old is not None:
            free = ("volumeName", "resources", "volumeAttributesClassName")
            fixed = [{k: v for k, v in spec_of(one).items() if k not in free} for one in (obj, old)]
            bound = spec_of(old).get("volumeName")
            if not same(*fixed) or (bound and spec.get("volumeName") != bound):
                causes.append(
                    Cause.forbidden(
                        "spec",
                        "spec is immutable after creation except resources.requests and volumeAttributesClassName "
                        "for bound claims",
                    )
                )
        return causes


class PersistentVolumeStrategy(Strategy):
    returns_deleted = True

    def default(self, obj: Object) -> None:
        set_default(obj.setdefault("spec", {}), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        obj["status"] = {"phase": "Pending"}


class StorageClassStrategy(Strategy):
    def default(self, obj: Object) -> None:
        set_default(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        if old is None:
            return []
        return [
            Cause.forbidden(name, "updates to " + name + " are forbidden.")
            for name in ("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode")
            if not same(obj.get(name), old.get(name))
        ]
