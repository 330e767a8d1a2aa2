"""Providers as plug-ins: any installed package may bring one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import cast

from kaito.provisioner.provider import CloudProvider, Guard
from kaito.runtime import ConfigError

GROUP = "kaito.providers"
"""Entry-point group; each entry names a function from the environment and a guard to a provider, which raises ConfigError."""


def unguarded() -> None:
    """Everybody may write."""


def load_provider(name: str, environ: Mapping[str, str], guard: Guard = unguarded) -> CloudProvider:
    """The provider called ``name``, set up from ``environ``, whose writes ask ``guard``. Raises ConfigError."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise ConfigError(f"there is no cloud provider {name!r}; installed are: {', '.join(sorted(known)) or 'none'}")
    make = cast("Callable[[Mapping[str, str], Guard], CloudProvider]", known[name].load())
    return make(environ, guard)
