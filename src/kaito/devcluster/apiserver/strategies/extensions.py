"""What extends the API server itself: webhook configurations and CustomResourceDefinitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause, validate_crd
from kaito.devcluster.apiserver.strategies.base import Strategy, immutable, set_default, spec_of

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.store import Collection, Object

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
"""Holds a CustomResourceDefinition until its objects are gone."""


class WebhookConfigurationStrategy(Strategy):
    """Defaults; ``webhooks`` calls them."""

    generation = True

    def default(self, obj: Object) -> None:
        for webhook in obj.get("webhooks") or ():
            set_default(
                webhook,
                failurePolicy="Fail",
                matchPolicy="Equivalent",
                namespaceSelector={},
                objectSelector={},
                timeoutSeconds=10,
            )
            if obj["kind"] == "MutatingWebhookConfiguration":
                set_default(webhook, reinvocationPolicy="Never")
            service: dict[str, Any] | None = (webhook.get("clientConfig") or {}).get("service")
            if service is not None:
                set_default(service, port=443)
            for rule in webhook.get("rules") or ():
                set_default(rule, scope="*")


class DefinitionStrategy(Strategy):
    """CustomResourceDefinitions: defaults here, life cycle in ``discovery.crd``."""

    generation = True
    free_form = ("default", "enum", "example")
    deletion_finalizers = (CLEANUP_FINALIZER,)

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        set_default(spec, conversion={"strategy": "None"})
        names = spec["names"] = spec.get("names") or {}
        if names.get("kind"):
            set_default(names, singular=names["kind"].lower(), listKind=f"{names['kind']}List")

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        stored = [version.get("name", "") for version in spec_of(obj).get("versions") or () if version.get("storage")]
        obj["status"] = {"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored}

    def prepare_update(self, obj: Object, old: Object, collection: Collection) -> None:
        stored = (obj.get("status") or {}).get("storedVersions") or []
        for version in spec_of(obj).get("versions") or ():
            if version.get("storage") and version.get("name", "") not in stored:
                obj["status"] = {**(obj.get("status") or {}), "storedVersions": [*stored, version.get("name", "")]}

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = validate_crd(obj)
        if old is None or causes:
            return causes
        spec, before = spec_of(obj), spec_of(old)
        causes = immutable("spec.group", spec.get("group"), before.get("group"))
        causes += immutable("spec.scope", spec.get("scope"), before.get("scope"))
        for name in ("plural", "kind"):
            causes += immutable(f"spec.names.{name}", spec["names"].get(name), before["names"].get(name))
        served = [version.get("name") for version in spec.get("versions") or ()]
        causes += [
            Cause.invalid(
                f"status.storedVersions[{index}]",
                name,
                "missing from spec.versions; it was previously a storage version, and must remain in spec.versions until a "
                "storage migration ensures no data remains persisted in it and removes it from status.storedVersions",
            )
            for index, name in enumerate((old.get("status") or {}).get("storedVersions") or ())
            if name not in served
        ]
        return causes
