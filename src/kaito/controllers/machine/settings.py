"""How patient the machine controller is. All times are in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.controllers.machine.claims import KINDS, ClaimKind
from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    kinds: tuple[ClaimKind, ...] = tuple(KINDS.values())
    """Whose claims are served (``KAITO_CLAIM_KINDS``: machine, nodeclaim); one that is not installed is looked for, and
    until then nothing counts as garbage."""
    poll_interval: float = 10.0
    """Between two lists of the instances while one of them is changing (``KAITO_POLL_INTERVAL_SECONDS``)."""
    registration_ttl: float = 15 * 60.0
    """For the Node of a running instance to appear (``KAITO_REGISTRATION_TIMEOUT_SECONDS``); then it is replaced."""
    drain_timeout: float = 10 * 60.0
    """For the pods of a node to leave it (``KAITO_DRAIN_TIMEOUT_SECONDS``), where the claim names no time; then it goes."""
    drain_interval: float = 1.0
    """Between two looks at the pods that have not left."""
    node_repair: bool = True
    """Whether sick nodes are replaced (``FEATURE_GATES``): NodeRepair=false for not."""
    node_grace: float = 10 * 60.0
    """For a Node that is not Ready, or has vanished, to come back (``KAITO_NODE_GRACE_SECONDS``); then it is replaced."""
    repair_share: float = 0.2
    """Which part of the nodes may be replaced at a time (``KAITO_REPAIR_SHARE``); one may be in any case."""
    retry_min: float = 30.0
    """Between a failed launch and the next one (``KAITO_RETRY_MIN_SECONDS``); it grows with the time that the claim has
    been tried."""
    retry_max: float = 5 * 60.0
    """The most it grows to, and the wait after an error that only a person can mend (``KAITO_RETRY_MAX_SECONDS``)."""
    garbage_interval: float = 2 * 60.0
    """Between two rounds of garbage collection, and between two lists of the instances while none is changing
    (``KAITO_GARBAGE_INTERVAL_SECONDS``)."""
    garbage_grace: float = 30.0
    """Age at which an instance without a claim can be garbage."""

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Settings:
        """Raises ConfigError for a value that is not one."""
        default = Settings()
        return Settings(
            kinds=_kinds(environ),
            poll_interval=_seconds(environ, "KAITO_POLL_INTERVAL_SECONDS", default.poll_interval),
            registration_ttl=_seconds(environ, "KAITO_REGISTRATION_TIMEOUT_SECONDS", default.registration_ttl),
            drain_timeout=_seconds(environ, "KAITO_DRAIN_TIMEOUT_SECONDS", default.drain_timeout),
            node_repair=_gate(environ, "NodeRepair", default=default.node_repair),
            node_grace=_seconds(environ, "KAITO_NODE_GRACE_SECONDS", default.node_grace),
            retry_min=_seconds(environ, "KAITO_RETRY_MIN_SECONDS", default.retry_min),
            retry_max=_seconds(environ, "KAITO_RETRY_MAX_SECONDS", default.retry_max),
            garbage_interval=_seconds(environ, "KAITO_GARBAGE_INTERVAL_SECONDS", default.garbage_interval),
            repair_share=_share(environ, "KAITO_REPAIR_SHARE", default.repair_share),
        )


def _kinds(environ: Mapping[str, str]) -> tuple[ClaimKind, ...]:
    text = environ.get("KAITO_CLAIM_KINDS") or ",".join(KINDS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        raise ConfigError(f"KAITO_CLAIM_KINDS is {text!r}; it must name some of: {', '.join(KINDS)}")
    return tuple(KINDS[name] for name in dict.fromkeys(names))


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    seconds = _number(environ, name, default)
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{name} is {environ[name]!r}; it must be a number of seconds above 0")
    return seconds


def _share(environ: Mapping[str, str], name: str, default: float) -> float:
    share = _number(environ, name, default)
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} is {environ[name]!r}; it must be a number from 0 to 1")
    return share


def _gate(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A feature gate, from ``Name=true,Other=false``; those of others are passed over."""
    for part in (environ.get("FEATURE_GATES") or "").split(","):
        gate, equals, value = part.strip().partition("=")
        if gate != name:
            continue
        if not equals or value.lower() not in ("true", "false"):
            raise ConfigError(f"FEATURE_GATES has {part.strip()!r}; it must be {name}=true or {name}=false")
        return value.lower() == "true"
    return default
