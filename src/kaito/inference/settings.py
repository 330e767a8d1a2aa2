"""Settings of the model server: its command line, and the configuration file of the Workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kaito.inference.errors import ConfigError

EngineName = Literal["openvino", "transformers", "vllm"]
_ALIASES = {
    "pretrained_model_name_or_path": "model",
    "torch_dtype": "dtype",
    "kaito_adapters_dir": "adapters_dir",
    "kaito_config_file": "config",
}


class Settings(BaseModel):
    """A flag ``--served-model-name`` is the field ``served_model_name``; a flag without a value is true."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    engine: EngineName = "transformers"
    model: str = "/workspace/weights"
    """A directory, a GGUF file, ``package:NAME`` for the GGUF file in an installed Python package, or a name on the hub."""
    stand_in: str = ""
    """What to load instead of ``model``, and say so."""
    served_model_name: str = ""
    revision: str = ""
    config: str = ""
    """YAML with a map of flags for each engine, which stand above those of the command line."""
    host: str = "0.0.0.0"
    port: int = Field(default=5000, ge=0, lt=65536)
    adapters_dir: str = "/mnt/adapter"
    combination_type: Literal["cat", "svd"] = "cat"
    """``cat`` adds adapters exactly; ``svd`` cuts their sum down to the largest of their ranks."""
    pipeline: Literal["", "text-generation", "conversational"] = ""
    """What ``/chat`` takes: a prompt, or messages; empty for both."""
    chat_template: str = ""
    """A Jinja file, or the template itself, in place of the model's."""
    dtype: str = "auto"
    trust_remote_code: bool = False
    max_model_len: int = Field(default=0, ge=0)
    """Tokens of a prompt and its answer; 0 for as many as the model was made for."""
    max_batch: int = Field(default=16, ge=1)
    """Sequences that are generated at the same time."""
    max_queue: int = Field(default=64, ge=0)
    """Sequences that wait for their turn; beyond them requests are refused with 429."""
    max_body: int = Field(default=4 << 20, ge=1024)
    """Bytes of a request."""
    body_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a client has to send the head of its request, and again its body."""
    drain_delay: float = Field(default=3.0, ge=0)
    """Seconds between SIGTERM and refusing requests, in which the cluster learns that the pod is going away."""
    drain_timeout: float = Field(default=25.0, ge=0)
    """Seconds after SIGTERM in which running requests may finish."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Flags of the engine's own."""

    @field_validator("max_model_len", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return 0 if value == "auto" else value

    @property
    def name(self) -> str:
        """The id of the model as it is served."""
        return self.served_model_name or Path(self.model).name or "model"


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from a command line and the configuration file that it names; raises ConfigError.

    ``LOCAL_RANK`` is added to the port, so that several servers on one host do not meet.
    """
    given = _flags(arguments)
    engine = given.get("engine", Settings.model_fields["engine"].default)
    if path := given.get("config"):
        given |= _section(str(path), str(engine))
    known = {name: value for name, value in given.items() if name in Settings.model_fields and name != "extra"}
    known["extra"] = {name: value for name, value in given.items() if name not in known}
    rank = environ.get("LOCAL_RANK", "0")
    try:
        settings = Settings.model_validate(known)
        return settings.model_copy(update={"port": settings.port + int(rank)})
    except ValidationError as error:
        raise ConfigError("; ".join(map(_words, error.errors()))) from None
    except ValueError:
        raise ConfigError(f"LOCAL_RANK: must be a number, is {rank!r}") from None


def _flags(arguments: Sequence[str]) -> dict[str, Any]:
    """``--name=value``, ``--name value`` and ``--name`` by name; a dash in a name is an underscore."""
    found: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"{word}: is no flag; flags are written --name=value, or --name")
        name, equals, value = word[2:].partition("=")
        if not equals and words and not words[0].startswith("--"):
            equals, value = "=", words.pop(0)
        name = name.replace("-", "_")
        found[_ALIASES.get(name, name)] = value if equals else True
    return found


def _section(path: str, engine: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path}: is not YAML: {' '.join(str(error).split())}") from None
    section = document.get(engine) if isinstance(document, Mapping) else None
    if document is not None and not isinstance(document, Mapping):
        raise ConfigError(f"--config: {path}: must be a map")
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError(f"--config: {path}: {engine}: must be a map of flags")
    names = {str(name).replace("-", "_"): value for name, value in (section or {}).items()}
    return {_ALIASES.get(name, name): value for name, value in names.items() if name not in ("engine", "config")}


def _words(error: Any) -> str:
    flag = "--" + "-".join(str(part) for part in error["loc"]).replace("_", "-")
    message = error["msg"]
    return f"{flag}: {message[:1].lower()}{message[1:]}, not {error['input']!r}"
