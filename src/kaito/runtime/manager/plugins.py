"""Controllers as plug-ins: any installed package may bring one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import cast

from kaito.runtime.errors import ConfigError
from kaito.runtime.manager.manager import Manager

GROUP = "kaito.controllers"
"""Entry-point group; each entry names a ``Setup``."""

Setup = Callable[[Manager, Mapping[str, str]], None]
"""Adds its controllers to the manager. Reads its settings from the mapping, which is the environment. Raises ConfigError."""


def load_controllers(names: Sequence[str]) -> list[Setup]:
    """The setup functions of the named controllers, imported. Raises ConfigError for an unknown, repeated or missing name."""
    if not names:
        raise ConfigError("no controllers to run: name at least one")
    if len(set(names)) != len(names):
        raise ConfigError(f"a controller is named twice: {', '.join(names)}")
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    setups = []
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no controller {name!r}; installed are: {', '.join(sorted(known)) or 'none'}")
        setups.append(cast(Setup, known[name].load()))
    return setups
