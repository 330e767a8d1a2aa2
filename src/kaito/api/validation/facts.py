"""What validation says, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito.api.workspace import Workspace

Kind = Literal["Required", "Invalid", "NotSupported", "Forbidden", "Duplicate", "TooMany"]

AZURE_PREFIXES = ("Standard_N", "Standard_D")
"""Azure sizes that are accepted without being in the catalogue."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field, and what to do."""

    path: str
    message: str
    kind: Kind = "Invalid"
    bypassable: bool = False
    """Whether ``kaito.sh/bypass-resource-checks`` makes it a warning: a matter of size, which arithmetic may misjudge."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Policy:
    """How an installation is set up, as far as it decides what a Workspace can ask for."""

    cloud: str = "azure"
    """Whose instance types Workspaces name: azure, aws or arc."""
    makes_nodes: bool = True
    """Whether nodes are made; otherwise those that exist are all there is, and instance types have no meaning."""
    own_image: bool = False
    """Whether there is an image of kaito's own model server."""
    private_urls: bool = False
    """Whether training data may come from addresses inside the cluster's own network."""


class PresetFacts(Protocol):
    @property
    def private_only(self) -> bool: ...
    @property
    def tuning(self) -> object | None: ...


class Catalogue(Protocol):
    """The facts about presets and instance types that validation asks for."""

    def preset(self, name: str) -> PresetFacts | None: ...
    def preset_names(self) -> tuple[str, ...]: ...
    def sku(self, cloud: str, name: str) -> object | None: ...
    def sku_names(self, cloud: str) -> tuple[str, ...]: ...
    def objections(self, obj: Workspace, policy: Policy) -> Iterable[FieldError]:
        """Why the preset cannot be run as the Workspace asks, by its facts and those of the instance type."""
        ...
