"""The engines, by name. Each imports what it needs only when it is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.inference.errors import ConfigError

if TYPE_CHECKING:
    from kaito.inference.protocol import Engine
    from kaito.inference.settings import Settings

EXTRAS = {"openvino": "inference-cpu", "transformers": "inference"}


def create(settings: Settings) -> Engine:
    """The engine that ``settings`` name, not loaded; raises ConfigError where its libraries are not installed."""
    try:
        if settings.engine == "openvino":
            from kaito.inference.engines.openvino import OpenVino

            return OpenVino(settings)
        from kaito.inference.engines.transformers import Transformers

        return Transformers(settings)
    except ImportError as error:
        extra = EXTRAS[settings.engine]
        raise ConfigError(
            f"--engine: {settings.engine} needs {error.name}, which is not installed: pip install 'kaito[{extra}]'"
        ) from error
