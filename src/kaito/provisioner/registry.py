"""Providers as plug-ins: any installed package may bring one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from kaito.provisioner.provider import CloudProvider
from kaito.runtime import ConfigError

GROUP = "kaito.providers"
"""Entry-point group; each entry names a function from the environment to a provider, which raises ConfigError."""


def load_provider(name: str, environ: Mapping[str, str]) -> CloudProvider:
    """The provider called ``name``, set up from ``environ``. Raises ConfigError."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ConfigError(f"there is no cloud provider {name!r}; installed are: {', '.join(sorted(known)) or 'none'}")
    make = cast("Callable[[Mapping[str, str]], CloudProvider]", known[name].load())
    return make(environ)
