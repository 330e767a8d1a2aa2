"""What any cluster holds: namespaces, nodes, configuration, endpoints, events, leases."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import same
from kaito.devcluster.apiserver.strategies.base import Strategy, immutable, set_default, spec_of
from kaito.runtime import BadRequest

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Collection, Object

_MAX_DATA = 1024 * 1024
_EVENT_REQUIRED = ("eventTime", "reportingController", "reportingInstance", "action", "reason")
_EVENT_LIMITS = {"reportingInstance": 128, "action": 128, "reason": 128, "note": 1024}
"""Bytes, although the message says characters; as of kube-apiserver."""


class NamespaceStrategy(Strategy):
    name_rule = "label"

    def default(self, obj: Object) -> None:
        metadata = obj["metadata"]
        if metadata.get("name"):
            metadata["labels"] = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        obj["metadata"]["labels"] = {
            **(obj["metadata"].get("labels") or {}),
            "kubernetes.io/metadata.name": obj["metadata"]["name"],
        }
        finalizers = spec_of(obj).get("finalizers") or []
        obj["spec"] = {"finalizers": [*finalizers, *(["kubernetes"] if "kubernetes" not in finalizers else [])]}
        obj["status"] = {"phase": "Active"}

    def prepare_update(self, obj: Object, old: Object, collection: Collection) -> None:
        """Finalizers of the spec change through the finalize subresource only."""
        obj["spec"] = old.get("spec") or {}


class NodeStrategy(Strategy):
    status_on_create = True
    status_writes_labels = True

    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})
        status = obj.setdefault("status", {})
        if status.get("capacity") and not status.get("allocatable"):
            status["allocatable"] = dict(status["capacity"])

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes: list[Cause] = []
        taints = spec_of(obj).get("taints") or []
        for index, taint in enumerate(taints):
            if taint.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
                causes.append(
                    Cause.not_supported(
                        f"spec.taints[{index}].effect",
                        taint.get("effect"),
                        ("NoSchedule", "PreferNoSchedule", "NoExecute"),
                    )
                )
            if any((t.get("key"), t.get("effect")) == (taint.get("key"), taint.get("effect")) for t in taints[:index]):
                causes.append(Cause.duplicate(f"spec.taints[{index}]", "taints must be unique by key and effect pair"))
        before = spec_of(old).get("providerID") if old is not None else None
        if before and spec_of(obj).get("providerID") != before:
            causes.append(
                Cause.forbidden("spec.providerID", 'node updates may not change providerID except from "" to valid')
            )
        return causes


class ConfigMapStrategy(Strategy):
    """Immutable once ``immutable`` is set; bounded in size."""

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = _sealed(obj, old, ("data", "binaryData"))
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        causes += [
            Cause.invalid(f"data[{name}]", name, "a key may not be in both data and binaryData")
            for name in data
            if name in binary
        ]
        return causes + _bounded(sum(len(value) for value in (*data.values(), *binary.values())))


class SecretStrategy(Strategy):
    def default(self, obj: Object) -> None:
        set_default(obj, type="Opaque")
        plain = obj.pop("stringData", None)
        if plain:
            encoded = {name: base64.b64encode(str(value).encode()).decode() for name, value in plain.items()}
            obj["data"] = {**(obj.get("data") or {}), **encoded}

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = _sealed(obj, old, ("data",))
        if old is not None:
            causes += immutable("type", obj.get("type"), old.get("type"))
        size = 0
        for name, value in (obj.get("data") or {}).items():
            try:
                size += len(base64.b64decode(value or "", validate=True))
            except (binascii.Error, TypeError) as error:
                raise BadRequest(
                    f'Secret in version "v1" cannot be handled as a Secret: data[{name}]: illegal base64 data: {error}'
                ) from error
        return causes + _bounded(size)


class ServiceAccountStrategy(Strategy):
    returns_deleted = True


class EndpointsStrategy(Strategy):
    def default(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                set_default(port, protocol="TCP")


class EndpointSliceStrategy(Strategy):
    generation = True

    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            set_default(port, name="", protocol="TCP")
        obj["endpoints"] = obj.get("endpoints") or []

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        if obj.get("addressType") not in ("IPv4", "IPv6", "FQDN"):
            return [Cause.required("addressType")]
        return [] if old is None else immutable("addressType", obj["addressType"], old.get("addressType"))


class EventStrategy(Strategy):
    """Events of either API version; the object an event is about must be in the event's namespace."""

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        field = "regarding" if obj["apiVersion"] == "events.k8s.io/v1" else "involvedObject"
        about = (obj.get(field) or {}).get("namespace") or ""
        namespace = obj["metadata"]["namespace"]
        causes = []
        if (about and about != namespace) or (not about and namespace not in ("default", "kube-system")):
            causes.append(Cause.invalid(f"{field}.namespace", about, "does not match event.namespace"))
        if obj["apiVersion"] == "events.k8s.io/v1":
            causes += self._validate_new_version(obj, old)
        return causes

    @staticmethod
    def _validate_new_version(obj: Object, old: Object | None) -> list[Cause]:
        causes = [Cause.required(name) for name in _EVENT_REQUIRED if old is None and not obj.get(name)]
        causes += [
            Cause.invalid(name, "", f"can have at most {limit} characters")
            for name, limit in _EVENT_LIMITS.items()
            if len((obj.get(name) or "").encode()) > limit
        ]
        if obj.get("type") not in ("Normal", "Warning"):
            causes.append(Cause.invalid("type", obj.get("type") or "", "has invalid value: "))
        series = obj.get("series")
        if series and (old is None or not same(series, old.get("series"))) and (series.get("count") or 0) < 2:
            causes.append(Cause.invalid("series.count", "", "should be at least 2"))
        if old is not None:
            for name in (*_EVENT_REQUIRED, "note", "regarding", "related", "type"):
                causes += immutable(name, obj.get(name), old.get(name))
        return causes


class LeaseStrategy(Strategy):
    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec = spec_of(obj)
        causes = []
        if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
            causes.append(
                Cause.invalid("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0")
            )
        if (spec.get("leaseTransitions") or 0) < 0:
            causes.append(
                Cause.invalid("spec.leaseTransitions", spec["leaseTransitions"], "must be greater than or equal to 0")
            )
        return causes


def _sealed(obj: Object, old: Object | None, fields: tuple[str, ...]) -> list[Cause]:
    if old is None or not old.get("immutable"):
        return []
    causes = [
        Cause.forbidden(field, "field is immutable when `immutable` is set")
        for field in fields
        if not same(obj.get(field) or {}, old.get(field) or {})
    ]
    if not obj.get("immutable"):
        causes.append(Cause.forbidden("immutable", "field is immutable when `immutable` is set"))
    return causes


def _bounded(size: int) -> list[Cause]:
    if size <= _MAX_DATA:
        return []
    return [Cause.too_long("", _MAX_DATA)]
