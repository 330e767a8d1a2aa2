"""Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import same
from kaito.devcluster.apiserver.strategies.base import Strategy, immutable, set_default, spec_of
from kaito.devcluster.apiserver.strategies.podspec import default_pod_spec, validate_pod_spec
from kaito.runtime import LabelSelector

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Collection, Object

MISMATCH = "`selector` does not match template `labels`"
_STATEFUL_SET_FREE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def _template(obj: Object) -> dict[str, Any]:
    template = spec_of(obj).setdefault("template", {})
    template.setdefault("metadata", {})
    return template if isinstance(template, dict) else {}


class WorkloadStrategy(Strategy):
    """Whatever has a pod template and a label selector."""

    generation = True
    selector_immutable = True
    restart_policies: tuple[str, ...] = ("Always",)

    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})
        default_pod_spec(_template(obj).setdefault("spec", {}))
        self.default_spec(spec_of(obj))

    def default_spec(self, spec: dict[str, Any]) -> None:
        set_default(spec, replicas=1)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec, template = spec_of(obj), _template(obj)
        causes = self.validate_selector(spec, template)
        if (spec.get("replicas") or 0) < 0:
            causes.append(Cause.invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
        causes += validate_pod_spec(template.get("spec") or {}, "spec.template.spec")
        restart = (template.get("spec") or {}).get("restartPolicy")
        if restart not in self.restart_policies:
            causes.append(Cause.not_supported("spec.template.spec.restartPolicy", restart, self.restart_policies))
        if old is not None and self.selector_immutable:
            causes += immutable("spec.selector", spec.get("selector"), spec_of(old).get("selector"))
        return causes

    def validate_selector(self, spec: dict[str, Any], template: dict[str, Any]) -> list[Cause]:
        if not spec.get("selector"):
            return (
                [Cause.required("spec.selector")]
                if spec.get("selector") is None
                else [Cause.invalid("spec.selector", spec["selector"], "empty selector is invalid for deployment")]
            )
        try:
            selector = LabelSelector.from_object(spec["selector"])
        except (ValueError, KeyError, TypeError) as error:
            return [Cause.invalid("spec.selector", spec["selector"], str(error))]
        labels = template["metadata"].get("labels") or {}
        if selector is None or not selector.matches(labels):
            return [Cause.invalid("spec.template.metadata.labels", labels, MISMATCH)]
        return []


class DeploymentStrategy(WorkloadStrategy):
    def default_spec(self, spec: dict[str, Any]) -> None:
        set_default(spec, replicas=1, strategy={}, revisionHistoryLimit=10, progressDeadlineSeconds=600)
        strategy = spec["strategy"]
        set_default(strategy, type="RollingUpdate")
        if strategy["type"] == "RollingUpdate":
            set_default(strategy, rollingUpdate={})
            set_default(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(obj, old)
        strategy = spec_of(obj)["strategy"]
        if strategy["type"] == "Recreate" and strategy.get("rollingUpdate"):
            causes.append(
                Cause.forbidden(
                    "spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'"
                )
            )
        return causes


class StatefulSetStrategy(WorkloadStrategy):
    selector_immutable = False

    def default_spec(self, spec: dict[str, Any]) -> None:
        set_default(
            spec,
            replicas=1,
            podManagementPolicy="OrderedReady",
            updateStrategy={},
            revisionHistoryLimit=10,
            persistentVolumeClaimRetentionPolicy={},
        )
        set_default(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
        update = spec["updateStrategy"]
        set_default(update, type="RollingUpdate")
        if update["type"] == "RollingUpdate":
            set_default(update, rollingUpdate={})
            set_default(update["rollingUpdate"], partition=0)
        for claim in spec.get("volumeClaimTemplates") or ():
            set_default(claim, apiVersion="v1", kind="PersistentVolumeClaim", metadata={}, spec={}, status={})
            set_default(claim["spec"], volumeMode="Filesystem")
            set_default(claim["status"], phase="Pending")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(obj, old)
        if old is not None:
            now, before = (
                {name: value for name, value in spec_of(one).items() if name not in _STATEFUL_SET_FREE}
                for one in (obj, old)
            )
            if not same(now, before):
                causes.append(
                    Cause.forbidden(
                        "spec",
                        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
                        "'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
                    )
                )
        return causes


class DaemonSetStrategy(WorkloadStrategy):
    def default_spec(self, spec: dict[str, Any]) -> None:
        set_default(spec, updateStrategy={}, revisionHistoryLimit=10)
        update = spec["updateStrategy"]
        set_default(update, type="RollingUpdate")
        if update["type"] == "RollingUpdate":
            set_default(update, rollingUpdate={})
            set_default(update["rollingUpdate"], maxUnavailable=1, maxSurge=0)


class ReplicationControllerStrategy(WorkloadStrategy):
    """The ancestor of ReplicaSet, whose selector is a plain label map."""

    selector_immutable = False

    def default_spec(self, spec: dict[str, Any]) -> None:
        set_default(spec, replicas=1, selector=(spec["template"]["metadata"].get("labels") or {}))

    def validate_selector(self, spec: dict[str, Any], template: dict[str, Any]) -> list[Cause]:
        labels = template["metadata"].get("labels") or {}
        if not spec.get("selector"):
            return [Cause.required("spec.selector")]
        if not LabelSelector.of(spec["selector"]).matches(labels):
            return [Cause.invalid("spec.template.metadata.labels", labels, MISMATCH)]
        return []


class JobStrategy(WorkloadStrategy):
    default_propagation = "Orphan"
    restart_policies = ("OnFailure", "Never")
    _FIXED = ("completions", "selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex")

    def default_spec(self, spec: dict[str, Any]) -> None:
        if spec.get("completions") is None and spec.get("parallelism") is None:
            set_default(spec, completions=1)
        set_default(
            spec,
            parallelism=1,
            backoffLimit=6,
            completionMode="NonIndexed",
            suspend=False,
            podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed",
        )

    def default(self, obj: Object) -> None:
        super().default(obj)
        labels = _template(obj)["metadata"].get("labels")
        if labels and not obj["metadata"].get("labels"):
            obj["metadata"]["labels"] = dict(labels)

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        spec, metadata = spec_of(obj), obj["metadata"]
        if spec.get("manualSelector"):
            return
        owned = {
            "batch.kubernetes.io/controller-uid": metadata["uid"],
            "batch.kubernetes.io/job-name": metadata["name"],
            "controller-uid": metadata["uid"],
            "job-name": metadata["name"],
        }
        template = _template(obj)["metadata"]
        template["labels"] = {**(template.get("labels") or {}), **owned}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": metadata["uid"]}}

    def prepare_update(self, obj: Object, old: Object, collection: Collection) -> None:
        """Manifests are applied again without the generated selector and labels."""
        spec, before = spec_of(obj), spec_of(old)
        if spec.get("manualSelector"):
            return
        set_default(spec, selector=before.get("selector"))
        template = _template(obj)["metadata"]
        generated = _template(old)["metadata"].get("labels") or {}
        template["labels"] = {
            **{name: value for name, value in generated.items() if name.endswith(("controller-uid", "job-name"))},
            **(template.get("labels") or {}),
        }

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = super().validate(obj, old)
        if old is not None:
            spec, before = spec_of(obj), spec_of(old)
            for name in self._FIXED:
                if name == "template" and before.get("suspend") and not (old.get("status") or {}).get("startTime"):
                    continue
                causes += immutable(f"spec.{name}", spec.get(name), before.get(name))
        return list(dict.fromkeys(causes))


class CronJobStrategy(Strategy):
    generation = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        set_default(
            spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1
        )
        template = (spec.setdefault("jobTemplate", {}).setdefault("spec", {})).setdefault("template", {})
        default_pod_spec(template.setdefault("spec", {}))

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        schedule = spec_of(obj).get("schedule") or ""
        if not schedule:
            return [Cause.required("spec.schedule")]
        if not schedule.startswith("@") and len(schedule.split()) != 5:
            return [
                Cause.invalid("spec.schedule", schedule, f"expected exactly 5 fields, found {len(schedule.split())}")
            ]
        return []


class ControllerRevisionStrategy(Strategy):
    free_form = ("data",)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        return [] if old is None else immutable("data", obj.get("data"), old.get("data"))
