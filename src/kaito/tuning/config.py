"""The training configuration: the map ``training_config`` of a YAML file, as Workspaces mount it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kaito.tuning.errors import ConfigError

SECTIONS = ("ModelConfig", "QuantizationConfig", "LoraConfig", "TrainingArguments", "DatasetConfig", "DataCollator")
ROOT = "/mnt"
"""What outputs and dataset paths must lie below."""
DEFAULT_LENGTH = 1024
"""Tokens of an example, where nothing else is said."""

_DTYPES = ("float32", "float16", "bfloat16", "auto")
_QUANT_TYPES = ("nf4", "fp4")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the frozen weights are kept; bitsandbytes' names and defaults."""

    bits: int = 16
    quant_type: str = "fp4"
    compute_dtype: str = "float32"
    double: bool = False
    int8_threshold: float = 6.0


@dataclass(frozen=True, slots=True)
class Dataset:
    path: str = ""
    """Below the dataset's folder; empty for all files there."""
    extension: str = ""
    """Only files of this kind; empty for all kinds."""
    shuffle: bool = True
    seed: int = 42
    context_column: str = ""
    response_column: str = ""
    messages_column: str = ""
    split: float = 0.8
    """The share that is trained on; the rest is evaluated. 1 for no evaluation."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    model: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``from_pretrained``."""
    quantization: Quantization = Quantization()
    lora: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``peft.LoraConfig``."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``transformers.TrainingArguments``, without ``output_dir``."""
    dataset: Dataset = Dataset()
    max_length: int = DEFAULT_LENGTH
    output: Path = Path(ROOT, "output")


def load_config(file: Path, *, root: str = ROOT) -> TrainingConfig:
    """``root`` stands for ``/mnt``, which outputs may name. Raises ConfigError, which names the file and the field."""
    try:
        document = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the training configuration {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    try:
        return parse_config(document, root=root)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def parse_config(document: Any, *, root: str = ROOT) -> TrainingConfig:
    config = document.get("training_config") if isinstance(document, Mapping) else None
    if not isinstance(config, Mapping):
        raise ConfigError("it needs a map training_config at its top")
    for name, section in config.items():
        if name not in SECTIONS:
            raise ConfigError(f"section {name!r} is unknown; known are {', '.join(SECTIONS)}")
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(f"section {name} must be a map")
    section = {name: dict(config.get(name) or {}) for name in SECTIONS}
    training = section["TrainingArguments"]
    output = training.pop("output_dir", None) or f"{root}/output"
    length = training.pop("max_length", None) or training.pop("max_seq_length", None) or DEFAULT_LENGTH
    if not isinstance(length, int) or isinstance(length, bool) or length < 8:
        raise ConfigError(f"TrainingArguments.max_length is {length!r}: it must be a number of tokens, at least 8")
    return TrainingConfig(
        model=section["ModelConfig"],
        quantization=_quantization(section["QuantizationConfig"]),
        lora=section["LoraConfig"],
        training=training,
        dataset=_dataset(section["DatasetConfig"]),
        max_length=length,
        output=_below(output, root),
    )


def _quantization(section: dict[str, Any]) -> Quantization:
    known = {
        "quant_method", "load_in_8bit", "load_in_4bit", "llm_int8_threshold", "llm_int8_skip_modules",
        "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
    }  # fmt: skip
    _only(section, known, "QuantizationConfig")
    four, eight = bool(section.get("load_in_4bit")), bool(section.get("load_in_8bit"))
    if four and eight:
        raise ConfigError("QuantizationConfig: load_in_4bit and load_in_8bit exclude each other")
    return Quantization(
        bits=4 if four else 8 if eight else 16,
        quant_type=_one_of(section, "bnb_4bit_quant_type", _QUANT_TYPES, "fp4"),
        compute_dtype=_one_of(section, "bnb_4bit_compute_dtype", _DTYPES[:3], "float32"),
        double=bool(section.get("bnb_4bit_use_double_quant", False)),
        int8_threshold=float(section.get("llm_int8_threshold", 6.0)),
    )


def _dataset(section: dict[str, Any]) -> Dataset:
    known = {
        "dataset_path", "dataset_extension", "shuffle_dataset", "shuffle_seed", "context_column", "response_column",
        "messages_column", "train_test_split",
    }  # fmt: skip
    _only(section, known, "DatasetConfig")
    split = section.get("train_test_split", 0.8)
    if isinstance(split, bool) or not isinstance(split, int | float) or not 0 < split <= 1:
        raise ConfigError(f"DatasetConfig.train_test_split is {split!r}: it must be more than 0 and at most 1")
    seed = section.get("shuffle_seed", 42)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"DatasetConfig.shuffle_seed is {seed!r}: it must be an integer")
    path = str(section.get("dataset_path") or "")
    if path.startswith("/") or ".." in path.split("/"):
        raise ConfigError(f"DatasetConfig.dataset_path is {path!r}: it must lie below the dataset's folder")
    return Dataset(
        path=path,
        extension=str(section.get("dataset_extension") or "").lower().lstrip("."),
        shuffle=bool(section.get("shuffle_dataset", True)),
        seed=seed,
        context_column=str(section.get("context_column") or ""),
        response_column=str(section.get("response_column") or ""),
        messages_column=str(section.get("messages_column") or ""),
        split=float(split),
    )


def _only(section: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"{where}.{key} is unknown; known are {', '.join(sorted(known))}")


def _one_of(section: Mapping[str, Any], key: str, known: tuple[str, ...], default: str) -> str:
    value = str(section.get(key) or default).removeprefix("torch.")
    if value not in known:
        raise ConfigError(f"QuantizationConfig.{key} is {value!r}: it must be one of {', '.join(known)}")
    return value


def _below(output: Any, root: str) -> Path:
    base = root.rstrip("/")
    path = posixpath.normpath(posixpath.join(root, str(output)))
    if not path.startswith(f"{base}/") and path.startswith(f"{ROOT}/"):
        path = base + path.removeprefix(ROOT)
    if not path.startswith(f"{base}/"):
        raise ConfigError(f"TrainingArguments.output_dir is {output!r}: it must lie below {root}")
    return Path(path)
