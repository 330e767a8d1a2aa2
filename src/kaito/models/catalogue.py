"""The catalogue: presets and instance types, read once from the data files of this package."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

from kaito.api.quantity import Quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CLOUDS = ("azure", "aws")
NO_MEMORY = Quantity(0)

Amount = Annotated[Quantity, BeforeValidator(lambda value: Quantity.parse(value) if isinstance(value, str) else value)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    name: str


class TuningPreset(BaseModel):
    """What fine-tuning a preset needs."""

    model_config = _Entry.model_config

    disk: Amount
    gpus: int
    memory: Amount
    per_gpu_memory: Amount = NO_MEMORY
    minimum: dict[str, int] = {}
    """GiB of GPU memory below which a method (``lora``, ``qlora``) cannot work."""
    parameters: dict[str, str] = {}
    """Flags of the launcher beside ``num_processes``."""
    timeout: int = 1800
    """Seconds until the job should have started."""


class Preset(_Entry):
    """A model that kaito knows how to run."""

    family: str
    access: Literal["public", "private"] = "public"
    tag: str
    """Tag of the public image."""
    disk: Amount
    """OS disk of a node."""
    gpus: int
    """GPUs for the whole model."""
    memory: Amount
    """GPU memory for the whole model."""
    per_gpu_memory: Amount = NO_MEMORY
    timeout: int = 1800
    """Seconds until a replica should be ready."""
    launcher: Literal["accelerate", "torchrun"] = "accelerate"
    parameters: dict[str, str] = {}
    """Flags of the model server."""
    world_size: int = 1
    revision: str = ""
    """Commit of the weights on the Hugging Face hub, abbreviated."""
    tuning: TuningPreset | None = None

    @property
    def private_only(self) -> bool:
        return self.access == "private"

    @property
    def distributed(self) -> bool:
        """Whether the model is spread over processes on several nodes."""
        return self.world_size > 1

    def image(self, registry: str) -> str:
        """The public image in ``registry``, such as ``mcr.microsoft.com/aks/kaito/kaito-falcon-7b:0.0.6``."""
        return f"{registry}/kaito-{self.name}:{self.tag}"


class Sku(_Entry):
    """An instance type with accelerators."""

    gpus: int
    memory: Amount
    """Memory of all accelerators together."""
    model: str
    vendor: Literal["nvidia", "amd", "aws"] = "nvidia"

    @property
    def per_gpu_memory(self) -> Quantity:
        return self.memory // self.gpus


class Catalogue:
    """Presets and instance types by name. Names are exact: upper and lower case matter."""

    __slots__ = ("_presets", "_skus")

    def __init__(self, presets: Mapping[str, Preset], skus: Mapping[str, Mapping[str, Sku]]) -> None:
        self._presets = presets
        self._skus = skus

    @staticmethod
    @cache
    def default() -> Catalogue:
        """The catalogue that kaito comes with."""
        presets = TypeAdapter(list[Preset]).validate_python(_read("presets.yaml")["presets"])
        skus = TypeAdapter(dict[str, list[Sku]]).validate_python(_read("skus.yaml"))
        return Catalogue(_by_name(presets), {cloud: _by_name(skus[cloud]) for cloud in CLOUDS})

    def preset(self, name: str) -> Preset | None:
        return self._presets.get(name)

    def preset_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._presets))

    def presets(self) -> tuple[Preset, ...]:
        return tuple(self._presets[name] for name in self.preset_names())

    def sku(self, cloud: str, name: str) -> Sku | None:
        return self._skus.get(cloud, {}).get(name)

    def sku_names(self, cloud: str) -> tuple[str, ...]:
        return tuple(sorted(self._skus.get(cloud, {})))


EntryT = TypeVar("EntryT", bound=_Entry)


def _by_name(entries: Iterable[EntryT]) -> dict[str, EntryT]:
    found: dict[str, EntryT] = {}
    for entry in entries:
        if entry.name in found:
            raise ValueError(f"the catalogue has two entries named {entry.name!r}")
        found[entry.name] = entry
    return found


def _read(name: str) -> Any:
    text = resources.files("kaito.models").joinpath("data", name).read_text("utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
