"""What the environment says about the Workspace controller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.models.catalogue import CLOUDS
from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_REGISTRY = "mcr.microsoft.com/aks/kaito"


@dataclass(frozen=True, slots=True)
class Settings:
    registry: str = DEFAULT_REGISTRY
    """Registry and path of the public preset images (``PRESET_REGISTRY_NAME``)."""
    cloud: str = "azure"
    """Whose instance types Workspaces name (``CLOUD_PROVIDER``): azure or aws."""

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Settings:
        """Raises ConfigError for a cloud that kaito does not know."""
        cloud = environ.get("CLOUD_PROVIDER") or "azure"
        if cloud not in CLOUDS:
            raise ConfigError(f"CLOUD_PROVIDER is {cloud!r}; it must be one of: {', '.join(CLOUDS)}")
        registry = (environ.get("PRESET_REGISTRY_NAME") or DEFAULT_REGISTRY).rstrip("/")
        return Settings(registry=registry, cloud=cloud)
