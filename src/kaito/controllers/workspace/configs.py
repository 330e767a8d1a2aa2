"""The ConfigMaps that Workspaces name, read once for each of their versions."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, final

from kaito.runtime import CONFIG_MAPS, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.runtime import Client, Lister

    Data = Mapping[str, str]


@final
class ConfigMaps:
    """Metadata comes from the cache, which tells of changes; data is asked for when its version is a new one."""

    def __init__(self, client: Client, metadata: Lister[Any]) -> None:
        self._client = client
        self._metadata = metadata
        self._read: dict[tuple[str, str], tuple[str, Data]] = {}

    async def data(self, name: str, namespace: str) -> Data | None:
        """What the ConfigMap holds; None where there is no such ConfigMap."""
        key = (namespace, name)
        stored = self._metadata.stored(name, namespace)
        if stored is None:
            self._read.pop(key, None)
            return None
        known = self._read.get(key)
        if known is not None and known[0] == stored.meta.resource_version:
            return known[1]
        try:
            found = await self._client.get(CONFIG_MAPS, name, namespace)
        except NotFound:
            return None
        data: Data = found.get("data") or {}
        self._read[key] = (str(found["metadata"]["resourceVersion"]), data)
        return data


def hash_of(text: str) -> str:
    """A short hash of a configuration, for an annotation."""
    return sha256(text.encode()).hexdigest()[:16]
