"""The environment of a container, and what ``$(NAME)`` stands for in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kaito.devcluster.kubelet.host import references
from kaito.devcluster.kubelet.host.references import Missing, Sources
from kaito.runtime import Manifest

_REFERENCE = re.compile(r"\$(\$|\(([^()]+)\))")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*\Z")


def expand(text: str, environ: Mapping[str, str]) -> str:
    """``$(NAME)`` replaced where the name is known, ``$$`` by one dollar sign."""

    def replace(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return environ.get(found[2], found[0])

    return _REFERENCE.sub(replace, text)


def service_links(services: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Where each Service that has an address is, as a kubelet tells containers: by its name and, as links of Docker's, by its
    ports."""
    environ: dict[str, str] = {}
    for service in services:
        spec = service["spec"]
        address, ports = spec.get("clusterIP") or "None", spec.get("ports") or ()
        if address == "None" or not ports:
            continue
        name = _variable(service["metadata"]["name"])
        environ |= {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"])}
        for number, port in enumerate(ports):
            protocol = port.get("protocol", "TCP")
            url = f"{protocol.lower()}://{address}:{port['port']}"
            link = f"{name}_PORT_{port['port']}_{protocol}"
            if port.get("name"):
                environ[f"{name}_SERVICE_PORT_{_variable(port['name'])}"] = str(port["port"])
            if number == 0:
                environ[f"{name}_PORT"] = url
            environ |= {
                link: url,
                f"{link}_PROTO": protocol.lower(),
                f"{link}_PORT": str(port["port"]),
                f"{link}_ADDR": address,
            }
    return environ


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


async def environment(
    container: Mapping[str, Any], pod: Mapping[str, Any], node: Manifest, sources: Sources, base: Mapping[str, str]
) -> dict[str, str]:
    """The Services of the namespace, ``base``, and above it what the container asks for, in its order. Raises Missing."""
    linked = pod["spec"].get("enableServiceLinks", True)
    environ = {**(service_links(await sources.services()) if linked else {}), **base}
    for item in container.get("envFrom") or ():
        held: dict[str, bytes] = {}
        if reference := item.get("configMapRef"):
            held = await sources.config_map(reference["name"], optional=bool(reference.get("optional")))
        elif reference := item.get("secretRef"):
            held = await sources.secret(reference["name"], optional=bool(reference.get("optional")))
        prefix = item.get("prefix", "")
        environ |= {f"{prefix}{key}": _text(value) for key, value in held.items() if _NAME.match(f"{prefix}{key}")}
    for item in container.get("env") or ():
        if origin := item.get("valueFrom"):
            value = await _value(origin, container, pod, node, sources)
            if value is not None:
                environ[item["name"]] = value
        else:
            environ[item["name"]] = expand(item.get("value") or "", environ)
    return environ


async def _value(
    origin: Mapping[str, Any],
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    node: Manifest,
    sources: Sources,
) -> str | None:
    """None for an optional key that is not there."""
    if reference := origin.get("fieldRef"):
        return references.field(pod, reference["fieldPath"])
    if reference := origin.get("resourceFieldRef"):
        return references.resource(container, reference, node)
    if reference := origin.get("configMapKeyRef"):
        what, held = "configmap", await sources.config_map(reference["name"], optional=bool(reference.get("optional")))
    else:
        reference = origin["secretKeyRef"]
        what, held = "secret", await sources.secret(reference["name"], optional=bool(reference.get("optional")))
    if reference["key"] in held:
        return _text(held[reference["key"]])
    if reference.get("optional"):
        return None
    raise Missing(f"couldn't find key {reference['key']} in {what} {sources.namespace}/{reference['name']}")


def _text(value: bytes) -> str:
    """As an environment takes it: bytes that are not UTF-8 stay what they are, zeros cannot be."""
    return value.replace(b"\0", b"").decode(errors="surrogateescape")
