"""Which webhooks a request concerns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema.cel import CelError, Program
from kaito.runtime import LabelSelector

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.builtins import ResourceInfo
    from kaito.devcluster.apiserver.store import Object

CONDITION_VARIABLES = ("object", "oldObject", "request")
_CONFIGURATIONS = frozenset({"validatingwebhookconfigurations", "mutatingwebhookconfigurations"})


@dataclass(frozen=True, slots=True)
class Webhook:
    """One entry of a configuration."""

    configuration: str
    mutating: bool
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def ignores_failure(self) -> bool:
        return self.spec.get("failurePolicy") == "Ignore"

    @property
    def timeout(self) -> float:
        """Seconds."""
        return float(self.spec.get("timeoutSeconds") or 10)

    @property
    def takes_dry_runs(self) -> bool:
        return self.spec.get("sideEffects") in ("None", "NoneOnDryRun")


def matched_version(
    webhook: Webhook, info: ResourceInfo, versions: Iterable[str], operation: str, subresource: str
) -> str | None:
    """The version of the resource in which the webhook is to be asked; None where its rules do not name the request.

    ``versions`` are all that are served. With ``matchPolicy: Equivalent`` a rule for one of them stands for all.
    """
    if info.group == "admissionregistration.k8s.io" and info.plural in _CONFIGURATIONS:
        return None
    others = [version for version in versions if version != info.version]
    equivalent = webhook.spec.get("matchPolicy", "Equivalent") == "Equivalent"
    candidates: list[str] = [info.version, *(others if equivalent else ())]
    for version in candidates:
        if any(_rule_names(rule, info, version, operation, subresource) for rule in webhook.spec.get("rules") or ()):
            return version
    return None


def _rule_names(rule: Mapping[str, Any], info: ResourceInfo, version: str, operation: str, subresource: str) -> bool:
    if not _named(rule.get("operations"), operation) or not _named(rule.get("apiGroups"), info.group):
        return False
    if not _named(rule.get("apiVersions"), version):
        return False
    if rule.get("scope", "*") not in ("*", "Namespaced" if info.namespaced else "Cluster"):
        return False
    if subresource:
        wanted = {"*/*", f"{info.plural}/*", f"*/{subresource}", f"{info.plural}/{subresource}"}
    else:
        wanted = {"*", "*/*", info.plural}
    return bool(wanted & set(rule.get("resources") or ()))


def _named(names: Iterable[str] | None, name: str) -> bool:
    return any(listed in ("*", name) for listed in names or ())


def selected(webhook: Webhook, namespace_labels: Mapping[str, str] | None, objects: Iterable[Object | None]) -> bool:
    """Whether the selectors of the webhook match; ``namespace_labels`` is None for what is in no namespace."""
    if namespace_labels is not None and not _matches(webhook.spec.get("namespaceSelector"), namespace_labels):
        return False
    selector = webhook.spec.get("objectSelector")
    return not selector or any(
        obj is not None and _matches(selector, obj["metadata"].get("labels") or {}) for obj in objects
    )


def _matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    return not selector or (LabelSelector.from_object(selector) or LabelSelector()).matches(labels)


def conditions_hold(webhook: Webhook, variables: Mapping[str, Any]) -> bool:
    """Whether all ``matchConditions`` are true. Raises CelError where none is false and one cannot be evaluated."""
    failure: CelError | None = None
    for condition in webhook.spec.get("matchConditions") or ():
        try:
            if not Program(condition["expression"], names=CONDITION_VARIABLES).evaluate(variables):
                return False
        except CelError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return True
