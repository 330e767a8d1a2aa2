"""How patient the Machine controller is. All times are in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    poll_interval: float = 10.0
    """Between two looks at an instance that is changing (``KAITO_POLL_INTERVAL_SECONDS``)."""
    registration_ttl: float = 15 * 60.0
    """For the Node of a running instance to appear; then the instance is replaced."""
    retry_min: float = 30.0
    """Between a failed launch and the next one; it grows with the time that the Machine has been tried."""
    retry_max: float = 5 * 60.0
    """The most it grows to, and the wait after an error that only a person can mend."""
    garbage_interval: float = 2 * 60.0
    garbage_grace: float = 30.0
    """Age at which an instance without a Machine can be garbage."""

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Settings:
        """Raises ConfigError for an interval that is not one."""
        text = environ.get("KAITO_POLL_INTERVAL_SECONDS")
        if not text:
            return Settings()
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise ConfigError(f"KAITO_POLL_INTERVAL_SECONDS is {text!r}; it must be a number of seconds above 0")
        return Settings(poll_interval=seconds)
