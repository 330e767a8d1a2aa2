"""Pods: status on creation, what may change later, graceful deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import same
from kaito.devcluster.apiserver.strategies.base import Strategy, set_default, spec_of
from kaito.devcluster.apiserver.strategies.podspec import (
    containers,
    default_pod_spec,
    default_requests,
    qos_class,
    validate_pod_spec,
)

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Collection, Object

_UPDATABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


class PodStrategy(Strategy):
    status_writes_labels = True
    returns_deleted = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        default_requests(spec)
        set_default(spec, enableServiceLinks=True)

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj["spec"])}

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = validate_pod_spec(spec_of(obj), "spec")
        if old is not None and not same(_fixed(obj), _fixed(old)):
            causes.append(Cause.forbidden("spec", _UPDATABLE))
        elif old is not None:
            before, after = (spec_of(pod).get("tolerations") or [] for pod in (old, obj))
            if any(toleration not in after for toleration in before):
                causes.append(
                    Cause.forbidden(
                        "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
                    )
                )
        return causes

    def grace_period(self, obj: Object, requested: int | None) -> int:
        """Pods that no kubelet runs go at once; otherwise the request, else the pod's own period."""
        status = obj.get("status") or {}
        if not spec_of(obj).get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        period = requested if requested is not None else spec_of(obj).get("terminationGracePeriodSeconds", 30)
        return max(0, int(period)) if period >= 0 else 1


def _fixed(pod: Object) -> dict[str, Any]:
    """The part of the spec that may not change; node assignment goes through the binding subresource."""
    spec = dict(spec_of(pod))
    for free in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"):
        spec.pop(free, None)
    images = {path for path, _ in containers(spec)}
    for name in ("containers", "initContainers"):
        spec[name] = [{**container, "image": ""} for container in spec.get(name) or ()]
    return spec | {"paths": sorted(images)}
