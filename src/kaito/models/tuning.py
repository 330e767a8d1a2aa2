"""How much GPU memory fine-tuning a model takes. Pure arithmetic over the facts of the catalogue.

On each GPU: the frozen weights (half precision, or quantized with the embeddings kept as they are), the adapter with its
gradients and Adam's two moments in single precision (16 bytes for each weight of it), the activations of one batch
(34 bytes for each token, layer and hidden dimension; with checkpointing 2 and one layer's worth), the logits (10 bytes),
and a reserve for CUDA and fragmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaito.models.entries import GIB
from kaito.models.estimator import Fit

if TYPE_CHECKING:
    from kaito.models.entries import Model, Preset, Shape, Sku

RESERVE_GIB = 1.5
OPTIMIZER_BYTES = 16
ACTIVATION_BYTES = 34
CHECKPOINT_BYTES = 2
LOGIT_BYTES = 10
DEFAULT_RANK = 8
DEFAULT_LENGTH = 1024
_FOUR_BITS = {False: 0.5625, True: 0.516}
"""Bytes for a weight in nf4 with its scales, by double quantization."""


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """What of a training configuration decides about memory."""

    method: str
    """lora or qlora."""
    bits: int = 16
    """Of a frozen weight: 16, 8 or 4."""
    double_quantization: bool = True
    rank: int = DEFAULT_RANK
    batch: int = 1
    length: int = DEFAULT_LENGTH
    """Tokens of an example."""
    checkpointing: bool = False

    @staticmethod
    def of(method: str, config: Mapping[str, Any] | None = None) -> TuningSettings:
        """The settings of a ``training_config``; without one those of the method's standard configuration."""
        method = method.lower()
        if config is None:
            return TuningSettings(method, bits=4 if method == "qlora" else 16)
        quantization, lora, training = (
            _section(config, name) for name in ("QuantizationConfig", "LoraConfig", "TrainingArguments")
        )
        bits = 4 if quantization.get("load_in_4bit") else 8 if quantization.get("load_in_8bit") else 16
        return TuningSettings(
            method,
            bits=bits,
            double_quantization=bool(quantization.get("bnb_4bit_use_double_quant", False)),
            rank=_positive(lora.get("r"), DEFAULT_RANK),
            batch=_positive(training.get("per_device_train_batch_size"), 8),
            length=_positive(training.get("max_length") or training.get("max_seq_length"), DEFAULT_LENGTH),
            checkpointing=bool(training.get("gradient_checkpointing", False)),
        )


def fit(preset: Preset, sku: Sku, settings: TuningSettings) -> Fit:
    """Whether ``preset`` can be tuned on one node of ``sku``.

    Every GPU trains a copy of the model if one fits on a GPU; otherwise one copy is spread over all of them.
    """
    if sku.vendor != "nvidia":
        return Fit(f"{sku.name} has no NVIDIA GPU, which tuning {preset.name} needs")
    model, shape = preset.facts, preset.facts.shape
    if shape is None:
        return Fit()
    parts = {
        f"weights in {settings.bits} bits": _weights(model, shape, settings) / GIB,
        f"adapter of rank {settings.rank} and optimizer": _adapter(shape, settings.rank) / GIB,
        f"activations of {settings.batch} x {settings.length} tokens": _activations(shape, settings) / GIB,
        "logits": settings.batch * settings.length * shape.vocab * LOGIT_BYTES / GIB,
        "reserve": RESERVE_GIB,
    }
    need = sum(parts.values())
    told = f"{need:.1f} GiB = " + " + ".join(f"{amount:.1f} {name}" for name, amount in parts.items())
    if need <= sku.per_gpu_gib:
        return Fit("", told, processes=sku.gpus)
    spread = need + (sku.gpus - 1) * RESERVE_GIB
    if sku.gpus > 1 and spread <= sku.per_gpu_gib * sku.gpus:
        return Fit("", told, processes=1)
    return Fit(
        f"{sku.name} has {sku.memory} of GPU memory; tuning {preset.name} with {settings.method} needs {told}; choose a "
        "larger size, qlora, a smaller batch or gradient checkpointing",
        told,
    )


def _weights(model: Model, shape: Shape, settings: TuningSettings) -> float:
    stored = model.weights * GIB
    if settings.bits == 16:
        return stored
    embeddings = min(2 * 2 * shape.vocab * shape.hidden, stored)
    each = _FOUR_BITS[settings.double_quantization] if settings.bits == 4 else 1.0
    return embeddings + (stored - embeddings) / 2 * each


def _adapter(shape: Shape, rank: int) -> int:
    """Of all linear layers: four of the attention, three of the feed-forward network."""
    return OPTIMIZER_BYTES * rank * shape.layers * (11 * shape.hidden + 3 * shape.intermediate)


def _activations(shape: Shape, settings: TuningSettings) -> int:
    tokens = settings.batch * settings.length
    if settings.checkpointing:
        return tokens * shape.hidden * (CHECKPOINT_BYTES * shape.layers + ACTIVATION_BYTES)
    return tokens * shape.hidden * ACTIVATION_BYTES * shape.layers


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and value > 0 else default
