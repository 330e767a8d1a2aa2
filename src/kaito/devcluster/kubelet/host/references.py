"""What a pod refers to: keys of ConfigMaps and Secrets, fields of its own, amounts of resources."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from kaito.api.quantity import Quantity
from kaito.runtime import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, SERVICES, Client, Manifest, NotFound

_NANO = 10**9
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]\Z")


class Missing(Exception):
    """Something that a pod refers to is not there (yet); says what."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What objects of ``namespace`` say now, asked of the API server each time."""

    client: Client
    namespace: str

    async def config_map(self, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """The entries of a ConfigMap; none for an optional one that is not there. Raises Missing."""
        try:
            body = await self.client.get(CONFIG_MAPS, name, self.namespace)
        except NotFound:
            if optional:
                return {}
            raise Missing(f'configmap "{name}" not found') from None
        text = {key: value.encode() for key, value in (body.get("data") or {}).items()}
        return text | _decoded(body.get("binaryData"))

    async def secret(self, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """The entries of a Secret; none for an optional one that is not there. Raises Missing."""
        try:
            body = await self.client.get(SECRETS, name, self.namespace)
        except NotFound:
            if optional:
                return {}
            raise Missing(f'secret "{name}" not found') from None
        return _decoded(body.get("data"))

    async def services(self) -> list[Manifest]:
        return await self.client.list(SERVICES, self.namespace)

    async def token(self, account: str, audience: str, seconds: int) -> bytes:
        """A token of a service account. Raises Missing."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience] if audience else [], "expirationSeconds": seconds},
        }
        try:
            answer = await self.client.post(SERVICE_ACCOUNTS, account, "token", request, self.namespace)
        except NotFound:
            raise Missing(f'serviceaccount "{account}" not found') from None
        return str(answer["status"]["token"]).encode()


def _decoded(data: Mapping[str, str] | None) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (data or {}).items()}


def field(pod: Mapping[str, Any], path: str) -> str:
    """What a ``fieldRef`` gives. Raises Missing for a path that there is not."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    if keyed := _KEYED.match(path):
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    match path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata.get(path.removeprefix("metadata."), ""))
        case "metadata.labels" | "metadata.annotations":
            held = metadata.get(path.removeprefix("metadata.")) or {}
            return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(held.items()))
        case "spec.nodeName" | "spec.serviceAccountName":
            return str(spec.get(path.removeprefix("spec."), ""))
        case "status.podIP" | "status.hostIP":
            return str(status.get(path.removeprefix("status."), ""))
        case "status.podIPs" | "status.hostIPs":
            return ",".join(str(item["ip"]) for item in status.get(path.removeprefix("status.")) or ())
    raise Missing(f'fieldPath "{path}" is not supported')


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource(container: Mapping[str, Any], reference: Mapping[str, Any], node: Manifest) -> str:
    """What a ``resourceFieldRef`` gives, rounded up to its divisor; of a limit that is not set, what the node has."""
    kind, _, name = str(reference["resource"]).partition(".")
    held = (container.get("resources") or {}).get(kind) or {}
    amount = held.get(name)
    if amount is None and kind == "limits":
        amount = ((node.get("status") or {}).get("allocatable") or {}).get(name)
    divisor = Quantity.parse(str(reference.get("divisor") or 1)).nanos or _NANO
    return str(ceil(Fraction(Quantity.parse(str(amount or 0)).nanos, divisor)))


def memory_limit(container: Mapping[str, Any]) -> int:
    """Bytes; 0 for none."""
    amount = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return Quantity.parse(str(amount)).nanos // _NANO if amount is not None else 0
