"""The catalogue: models, presets and instance types, read once from the data files of this package.

Names are compared without case, as clouds and the Hugging Face hub do.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from kaito.models import estimator, judge
from kaito.models.entries import Accelerator, Model, Preset, Sku, TuningPreset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kaito.api.validation.facts import FieldError, Policy
    from kaito.api.workspace import Workspace

CLOUDS = ("azure", "aws", "arc")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Catalogue:
    """Presets and instance types by name."""

    __slots__ = ("_by_model", "_models", "_presets", "_skus")

    def __init__(self, presets: Iterable[Preset], models: Iterable[Model], skus: Mapping[str, Iterable[Sku]]) -> None:
        """``models`` are presets of their own name, where no preset serves them."""
        self._presets = _by_name(presets)
        self._models = _by_name(models)
        self._by_model = {preset.model.casefold(): preset for preset in self._presets.values()}
        self._skus = {cloud: _by_name(entries) for cloud, entries in skus.items()}

    @staticmethod
    @cache
    def default() -> Catalogue:
        """The catalogue that kaito comes with."""
        return _load(())

    @staticmethod
    def with_models(path: str | Path) -> Catalogue:
        """The catalogue with the models of a file like ``models.yaml`` beside its own, or in their place.

        Raises OSError, and ValueError for a file that is not of this form.
        """
        try:
            listed = yaml.load(Path(path).read_text("utf-8"), _LOADER)["models"]
            return _load(TypeAdapter(list[Model]).validate_python(listed))
        except (ValidationError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a list of models: {error}") from error

    def preset(self, name: str) -> Preset | None:
        """By short name, or by the name of a model on the hub, such as ``microsoft/phi-4``."""
        key = name.casefold()
        found = self._presets.get(key) or self._by_model.get(key)
        if found is None and (model := self._models.get(key)) is not None:
            return _downloaded(model.name, model, None)
        return found

    def preset_names(self) -> tuple[str, ...]:
        """The short names."""
        return tuple(sorted(preset.name for preset in self._presets.values()))

    def presets(self) -> tuple[Preset, ...]:
        return tuple(sorted(self._presets.values(), key=lambda preset: preset.name))

    def models(self) -> tuple[Model, ...]:
        return tuple(sorted(self._models.values(), key=lambda model: model.name.casefold()))

    def sku(self, cloud: str, name: str) -> Sku | None:
        return self._skus.get(cloud, {}).get(name.casefold())

    def sku_names(self, cloud: str) -> tuple[str, ...]:
        return tuple(sorted(sku.name for sku in self._skus.get(cloud, {}).values()))

    def skus(self, cloud: str) -> tuple[Sku, ...]:
        return tuple(sorted(self._skus.get(cloud, {}).values(), key=lambda sku: (sku.model, sku.gpus, sku.name)))

    def objections(self, obj: Workspace, policy: Policy) -> Iterator[FieldError]:
        """See :func:`kaito.models.judge.objections`."""
        return judge.objections(obj, self, policy)


def _load(more: Iterable[Model]) -> Catalogue:
    models = {
        model.name.casefold(): model for model in TypeAdapter(list[Model]).validate_python(_read("models")["models"])
    }
    models |= {model.name.casefold(): model for model in more}
    data = _read("presets")
    disks = data["tuningDisks"]

    def facts(name: str) -> Model:
        return models[name.casefold()]

    presets = [Preset(**entry, facts=facts(entry["model"])) for entry in data["presets"]]
    presets += [_downloaded(alias, facts(name), disks.get(name)) for alias, name in data["aliases"].items()]
    sizes = _read("skus")
    accelerators = TypeAdapter(dict[str, Accelerator]).validate_python(sizes["accelerators"])
    skus = {cloud: [_sku(entry, accelerators[entry["model"]]) for entry in sizes[cloud]] for cloud in CLOUDS}
    return Catalogue(presets, models.values(), skus)


def _downloaded(name: str, model: Model, tuning_disk: str | None) -> Preset:
    """The preset of a model whose weights kaito's own server downloads."""
    return Preset(
        name=name,
        model=model.name,
        family=model.name.partition("/")[0],
        disk=model.disk,
        gpus=1,
        memory=estimator.gib(model.weights),
        timeout=model.timeout,
        tuning=TuningPreset.model_validate({"disk": tuning_disk}) if tuning_disk else None,
        facts=model,
    )


def _sku(entry: dict[str, Any], accelerator: Accelerator) -> Sku:
    return Sku(**entry, capability=accelerator.capability, cost=accelerator.cost * entry["gpus"])


EntryT = TypeVar("EntryT", Preset, Model, Sku)


def _by_name(entries: Iterable[EntryT]) -> dict[str, EntryT]:
    found: dict[str, EntryT] = {}
    for entry in entries:
        key = entry.name.casefold()
        if key in found:
            raise ValueError(f"the catalogue has two entries named {entry.name!r}")
        found[key] = entry
    return found


def _read(name: str) -> Any:
    text = resources.files("kaito.models").joinpath("data", f"{name}.yaml").read_text("utf-8")
    return yaml.load(text, _LOADER)
