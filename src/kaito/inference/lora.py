"""LoRA adapters as numbers: read from PEFT's files, added up, and written again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy

from kaito.inference.adapters import CONFIG_FILE
from kaito.inference.errors import ModelError
from kaito.inference.protocol import Adapter, Mix

Combination = Literal["cat", "svd"]
Factors = tuple[Any, Any]
"""``A``, rank by inputs, and ``B``, outputs by rank, in float32: what is added to a weight is ``B @ A``."""

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_UNSUPPORTED = ("use_dora", "modules_to_save", "fan_in_fan_out", "trainable_token_indices", "alora_invocation_tokens")


def combined(mix: Mix, combination: Combination) -> dict[str, Factors]:
    """By module of the model, what the adapters of ``mix`` add to it, strengths included. Raises ModelError.

    ``cat`` is their exact sum, whose rank is the sum of their ranks; ``svd`` is the closest to it of the largest rank.
    """
    modules: dict[str, list[Factors]] = {}
    for adapter in mix:
        for module, factors in _read(adapter).items():
            modules.setdefault(module, []).append(factors)
    summed = {module: _cat(parts) for module, parts in modules.items()}
    if combination == "svd":
        return {module: _svd(factors, max(len(a) for a, _ in modules[module])) for module, factors in summed.items()}
    return summed


def write(directory: Path, modules: Mapping[str, Factors], base_model: str) -> int:
    """An adapter of PEFT's form in ``directory``; the largest of its ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    ranks = {module: len(a) for module, (a, _) in modules.items()}
    rank = max(ranks.values(), default=1)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    tensors: dict[str, Any] = {}
    for module, (a, b) in modules.items():
        # One rank for all modules: zeros add nothing.
        missing = rank - ranks[module]
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = numpy.pad(a, ((0, missing), (0, 0)))
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = numpy.pad(b, ((0, 0), (0, missing)))
    _write_tensors(directory / WEIGHTS_FILE, tensors)
    return rank


def _read(adapter: Adapter) -> dict[str, Factors]:
    directory = Path(adapter.path)
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = _read_tensors(directory / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"adapter {adapter.name}: {directory} cannot be read: {error}") from error
    if config.get("peft_type") != "LORA":
        raise ModelError(f"adapter {adapter.name}: peft_type is {config.get('peft_type')!r}, only LORA can be loaded")
    for key in _UNSUPPORTED:
        if config.get(key):
            raise ModelError(
                f"adapter {adapter.name}: {key} is not supported by this engine; the engine transformers has it"
            )
    found: dict[str, Factors] = {}
    for name, a in tensors.items():
        module, is_a, _ = name.removeprefix(_PREFIX).partition(".lora_A.")
        if not is_a:
            if ".lora_B." not in name:
                raise ModelError(f"adapter {adapter.name}: the tensor {name} is not supported by this engine")
            continue
        b = tensors.get(name.replace(".lora_A.", ".lora_B."))
        if b is None or b.shape[1] != a.shape[0]:
            raise ModelError(f"adapter {adapter.name}: {module} has no lora_B that fits its lora_A")
        found[module] = a, b * numpy.float32(adapter.strength * _scaling(config, module, len(a)))
    if not found:
        raise ModelError(f"adapter {adapter.name}: {directory / WEIGHTS_FILE} holds no lora_A")
    return found


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha") or 8
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            alpha = other
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _cat(parts: Sequence[Factors]) -> Factors:
    return numpy.concatenate([a for a, _ in parts]), numpy.concatenate([b for _, b in parts], axis=1)


def _svd(factors: Factors, rank: int) -> Factors:
    """The closest factors of ``rank``, found in the small space that the factors span."""
    a, b = factors
    q_b, r_b = numpy.linalg.qr(b)
    q_a, r_a = numpy.linalg.qr(a.T)
    left, values, right = numpy.linalg.svd(r_b @ r_a.T)
    return (right[:rank] @ q_a.T).astype(numpy.float32), (q_b @ left[:, :rank] * values[:rank]).astype(numpy.float32)


def _read_tensors(path: Path) -> dict[str, Any]:
    """A safetensors file in float32. NumPy has no bfloat16, which is the upper half of a float32."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors: dict[str, Any] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin : 8 + size + end]
        if entry["dtype"] == "BF16":
            flat = (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        elif entry["dtype"] in _TYPES:
            flat = numpy.frombuffer(raw, _TYPES[entry["dtype"]]).astype(numpy.float32)
        else:
            raise ValueError(f"{path.name}: {name} is of type {entry['dtype']}")
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def _write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.size * 4]}
        offset += tensor.size * 4
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(numpy.ascontiguousarray(tensor, dtype="<f4").tobytes())
