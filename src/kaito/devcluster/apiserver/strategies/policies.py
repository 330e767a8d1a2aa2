"""Rules about other objects: who may do what, disruption, priority, traffic, scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.strategies.base import Strategy, immutable, set_default, spec_of

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Object

_RBAC_GROUP = "rbac.authorization.k8s.io"


class RoleStrategy(Strategy):
    name_rule = "path"

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = []
        for index, rule in enumerate(obj.get("rules") or ()):
            field = f"rules[{index}]"
            if not rule.get("verbs"):
                causes.append(Cause.required(f"{field}.verbs", "verbs must contain at least one value"))
            if rule.get("nonResourceURLs"):
                if obj["kind"] == "Role":
                    causes.append(
                        Cause.invalid(
                            f"{field}.nonResourceURLs",
                            rule["nonResourceURLs"],
                            "namespaced rules cannot apply to non-resource URLs",
                        )
                    )
                continue
            if not rule.get("apiGroups"):
                causes.append(Cause.required(f"{field}.apiGroups", "resource rules must supply at least one api group"))
            if not rule.get("resources"):
                causes.append(Cause.required(f"{field}.resources", "resource rules must supply at least one resource"))
        return causes


class RoleBindingStrategy(Strategy):
    name_rule = "path"

    def default(self, obj: Object) -> None:
        if isinstance(obj.get("roleRef"), dict):
            set_default(obj["roleRef"], apiGroup=_RBAC_GROUP)
        for subject in obj.get("subjects") or ():
            if subject.get("kind") in ("User", "Group"):
                set_default(subject, apiGroup=_RBAC_GROUP)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        role = obj.get("roleRef") or {}
        causes = [Cause.required(f"roleRef.{name}") for name in ("kind", "name") if not role.get(name)]
        for index, subject in enumerate(obj.get("subjects") or ()):
            if (
                subject.get("kind") == "ServiceAccount"
                and not subject.get("namespace")
                and obj["kind"] == "ClusterRoleBinding"
            ):
                causes.append(Cause.required(f"subjects[{index}].namespace"))
        if old is not None:
            causes += immutable("roleRef", role, old.get("roleRef"), "cannot change roleRef")
        return causes


class PodDisruptionBudgetStrategy(Strategy):
    generation = True

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec = spec_of(obj)
        if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
            return [Cause.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")]
        return []


class PriorityClassStrategy(Strategy):
    generation = True

    def default(self, obj: Object) -> None:
        set_default(obj, preemptionPolicy="PreemptLowerPriority")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        if old is not None and obj.get("value") != old.get("value"):
            return [Cause.forbidden("value", "may not be changed in an update.")]
        return []


class NetworkPolicyStrategy(Strategy):
    generation = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        set_default(spec, podSelector={}, policyTypes=["Ingress", *(["Egress"] if spec.get("egress") else [])])
        for rule in (*(spec.get("ingress") or ()), *(spec.get("egress") or ())):
            for port in rule.get("ports") or ():
                set_default(port, protocol="TCP")


class AutoscalerStrategy(Strategy):
    def default(self, obj: Object) -> None:
        set_default(obj.setdefault("spec", {}), minReplicas=1)
