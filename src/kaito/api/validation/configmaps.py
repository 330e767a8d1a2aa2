"""What the ConfigMaps that a Workspace names must hold. Pure: their data is an argument."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

import yaml

from kaito.api.validation.facts import FieldError

TRAINING_KEY = "training_config.yaml"
INFERENCE_KEY = "inference_config.yaml"
SECTIONS = (
    "ModelConfig",
    "QuantizationConfig",
    "LoraConfig",
    "TrainingArguments",
    "DatasetConfig",
    "DataCollator",
)
SERVER_PORT = 5000
"""Port of every model server."""
ENGINE_SECTIONS = ("transformers", "vllm", "openvino")
OUTPUT_ROOT = "/mnt"

Config = dict[str, Any]


def training_config(name: str, data: Mapping[str, str] | None, method: str) -> tuple[Config, list[FieldError]]:
    """The ``training_config`` in the ConfigMap ``name``, and what is wrong with it; ``data`` is None for no ConfigMap."""
    document, errors = _document("tuning.config", name, data, TRAINING_KEY)
    if errors:
        return {}, errors
    where, config = f"ConfigMap {name}, {TRAINING_KEY}", document.get("training_config")
    if not isinstance(config, Mapping):
        return {}, [FieldError("tuning.config", f"{where}: needs a map named training_config at its top")]
    said = [f"section {key!r} is unknown; known are {', '.join(SECTIONS)}" for key in config if key not in SECTIONS]
    said += [f"section {key} must be a map" for key in SECTIONS if not isinstance(config.get(key) or {}, Mapping)]
    if not said:
        said = [
            *_quantization(config.get("QuantizationConfig") or {}, method),
            *_output(config.get("TrainingArguments") or {}),
        ]
    return dict(config), [FieldError("tuning.config", f"{where}: {message}") for message in said]


def inference_config(name: str, data: Mapping[str, str] | None) -> tuple[Config, list[FieldError]]:
    """The configuration of a model server in the ConfigMap ``name``, and what is wrong with it.

    It has a map of flags for each engine, of which the one that serves reads its own.
    """
    document, errors = _document("inference.config", name, data, INFERENCE_KEY)
    where = f"ConfigMap {name}, {INFERENCE_KEY}"
    for engine in ENGINE_SECTIONS:
        flags = document.get(engine)
        if flags is not None and not (isinstance(flags, Mapping) and all(isinstance(key, str) for key in flags)):
            errors.append(FieldError("inference.config", f"{where}: {engine} must be a map of flags"))
        elif flags and str(flags.get("port", SERVER_PORT)) != str(SERVER_PORT):
            said = f"{where}: {engine}: the Service and the probes of the pods expect port {SERVER_PORT}: remove port"
            errors.append(FieldError("inference.config", said))
    return document, errors


def output_directory(config: Mapping[str, Any]) -> str:
    """Where a valid ``training_config`` puts the result: a directory below ``/mnt``."""
    given = (config.get("TrainingArguments") or {}).get("output_dir")
    if not isinstance(given, str) or not given:
        return f"{OUTPUT_ROOT}/output"
    return _below_root(given)


def _document(path: str, name: str, data: Mapping[str, str] | None, key: str) -> tuple[Config, list[FieldError]]:
    if data is None:
        return {}, [FieldError(path, f"there is no ConfigMap {name} in the Workspace's namespace: create it first")]
    if key not in data:
        return {}, [FieldError(path, f"ConfigMap {name} has no key {key}")]
    try:
        document = yaml.safe_load(data[key])
    except yaml.YAMLError as error:
        return {}, [FieldError(path, f"ConfigMap {name}, {key}: is not YAML: {' '.join(str(error).split())}")]
    if not isinstance(document, Mapping):
        return {}, [FieldError(path, f"ConfigMap {name}, {key}: must be a map")]
    return dict(document), []


def _quantization(section: Mapping[str, Any], method: str) -> list[str]:
    loads = {key: section.get(key) for key in ("load_in_4bit", "load_in_8bit")}
    said = [
        f"{key} must be true or false"
        for key, value in loads.items()
        if value is not None and not isinstance(value, bool)
    ]
    if said:
        return said
    if all(loads.values()):
        return ["load_in_4bit and load_in_8bit exclude each other"]
    if method.lower() == "lora" and any(loads.values()):
        return [
            "lora trains on weights that are not quantized: use method qlora, or turn load_in_4bit and load_in_8bit off"
        ]
    if method.lower() == "qlora" and not any(loads.values()):
        return ["qlora needs QuantizationConfig with load_in_4bit or load_in_8bit true"]
    return []


def _output(section: Mapping[str, Any]) -> list[str]:
    given = section.get("output_dir")
    if given is None or given == "":
        return []
    if not isinstance(given, str):
        return ["output_dir must be a path"]
    if not _below_root(given).startswith(f"{OUTPUT_ROOT}/"):
        return [f"output_dir {given!r} must be a directory below {OUTPUT_ROOT}"]
    return []


def _below_root(path: str) -> str:
    inside = path == OUTPUT_ROOT or path.startswith(f"{OUTPUT_ROOT}/")
    return posixpath.normpath(path if inside else f"{OUTPUT_ROOT}/{path}")
