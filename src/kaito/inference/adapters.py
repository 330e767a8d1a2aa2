"""The adapters of a Workspace, and the model ids under which they are served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from kaito.inference.errors import ConfigError, ModelError, UnknownModel
from kaito.inference.protocol import Adapter, Mix

BASE = "base"
"""The id of the model without adapters, where there are adapters."""
CONFIG_FILE = "adapter_config.json"


def discover(directory: str, environ: Mapping[str, str]) -> Mix:
    """The adapters in the subdirectories of ``directory``, by name.

    The strength of an adapter is in the environment variable that has its name; 1 where there is none.
    """
    root = Path(directory)
    if not root.is_dir():
        return ()
    found = sorted(path for path in root.iterdir() if (path / CONFIG_FILE).is_file())
    return tuple(Adapter(path.name, str(path), _strength(path.name, environ.get(path.name, "1.0"))) for path in found)


def empty(directory: str) -> list[str]:
    """Subdirectories of ``directory`` that hold no adapter."""
    root = Path(directory)
    return sorted(path.name for path in root.iterdir() if not (path / CONFIG_FILE).is_file()) if root.is_dir() else []


def _strength(name: str, text: str) -> float:
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"the strength of the adapter {name} must be a number from 0 to 1; the variable {name} is {text!r}"
        )
    return strength


@final
class Models:
    """Model ids and what they mean.

    The served name is the model with all its adapters. Where there are adapters, ``base`` is the model without them, each
    adapter's name is the model with that one, and names joined by ``+`` are the model with those.
    """

    __slots__ = ("_adapters", "name")

    def __init__(self, name: str, adapters: Sequence[Adapter]) -> None:
        self.name = name
        self._adapters = {adapter.name: adapter for adapter in adapters}
        for taken in (name, BASE):
            if taken in self._adapters:
                raise ModelError(f"an adapter cannot be named {taken}: it is the id of the model; rename the adapter")

    @property
    def listed(self) -> tuple[str, ...]:
        """The ids that are told of; further combinations are made when asked for."""
        return (self.name, BASE, *self._adapters) if self._adapters else (self.name,)

    @property
    def mixes(self) -> dict[str, Mix]:
        """What to add to the model for each of the ids that are told of."""
        return {name: self.resolve(name) for name in self.listed}

    def named(self, model: str) -> Mix:
        """The adapters of ``model``, in the order of their names; raises UnknownModel."""
        if model == self.name:
            return tuple(self._adapters.values())
        if model == BASE and self._adapters:
            return ()
        names = set(model.split("+"))
        if not names <= self._adapters.keys():
            raise UnknownModel(
                f"The model `{model}` does not exist; there are {', '.join(self.listed)}.", param="model"
            )
        return tuple(self._adapters[name] for name in sorted(names))

    def resolve(self, model: str | None) -> Mix:
        """What to add to the model for ``model``; None is the served name. An adapter of strength 0 adds nothing."""
        return tuple(adapter for adapter in self.named(self.name if model is None else model) if adapter.strength)
