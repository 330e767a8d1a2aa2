"""Which resources the API server has: what garbage collection watches and a dying namespace is emptied of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kaito.runtime import Discovery, Manifest, Resource, manifest_resource

_EVENTS = {("", "events"), ("events.k8s.io", "events")}
"""They own nothing, belong to nobody and expire by themselves."""


async def discover(discovery: Discovery) -> list[Resource[Manifest]]:
    """Every resource whose objects can be listed, watched and deleted, each in one version; no Events."""
    found = await discovery.with_verbs("list", "watch", "delete")
    return [resource for resource in found if (resource.group, resource.plural) not in _EVENTS]


def established(definition: Mapping[str, Any]) -> Resource[Manifest] | None:
    """The resource that a CustomResourceDefinition serves; None while it does not, or not any more."""
    held = {item["type"]: item["status"] for item in (definition.get("status") or {}).get("conditions") or ()}
    if held.get("Established") != "True":
        return None
    spec = definition["spec"]
    version = next((item for item in spec["versions"] if item.get("storage") and item.get("served")), None)
    version = version or next((item for item in spec["versions"] if item.get("served")), None)
    if version is None:
        return None
    names = spec["names"]
    return manifest_resource(
        spec["group"], version["name"], names["kind"], names["plural"], namespaced=spec["scope"] == "Namespaced"
    )


def builtin(
    resources: Iterable[Resource[Manifest]], definitions: Iterable[Mapping[str, Any]]
) -> list[Resource[Manifest]]:
    """``resources`` without those that CustomResourceDefinitions make."""
    custom = {(item["spec"]["group"], item["spec"]["names"]["plural"]) for item in definitions}
    return [resource for resource in resources if (resource.group, resource.plural) not in custom]
