"""Which resources the API server has: what garbage collection watches and a dying namespace is emptied of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kaito.runtime import Client, Manifest, Resource, manifest_resource

_ACCEPT = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_NEEDED = {"list", "watch", "delete"}
_IGNORED = {("", "events"), ("events.k8s.io", "events")}
"""Events own nothing, belong to nobody and expire by themselves."""


async def discover(client: Client) -> list[Resource[Manifest]]:
    """Every resource whose objects can be listed, watched and deleted, each in one version; no Events."""
    found: list[Resource[Manifest]] = []
    for path in ("/api", "/apis"):
        answer = await client.rest.send("GET", path, accept=_ACCEPT)
        found += parse(msgspec.json.decode(answer.body))
    return found


def parse(document: Mapping[str, Any]) -> list[Resource[Manifest]]:
    """The resources of an aggregated discovery document; the server puts its preferred version of a group first."""
    found: dict[tuple[str, str], Resource[Manifest]] = {}
    for group in document.get("items") or ():
        name = (group.get("metadata") or {}).get("name", "")
        for version in group.get("versions") or ():
            for resource in version.get("resources") or ():
                plural = resource["resource"]
                if (name, plural) in _IGNORED or not set(resource.get("verbs") or ()) >= _NEEDED:
                    continue
                found.setdefault(
                    (name, plural),
                    manifest_resource(
                        name,
                        version["version"],
                        resource["responseKind"]["kind"],
                        plural,
                        namespaced=resource["scope"] == "Namespaced",
                    ),
                )
    return list(found.values())


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
