"""How many GPUs and nodes serving a model takes. Pure arithmetic over the facts of the catalogue.

Published images state what they need. For kaito's own server the need follows from the model's weights and the
key-value cache of one request, as vLLM divides the memory of a GPU:

* of each GPU 84 % is used; 2.3 GiB and this GPU's part of the cache of one request are set aside;
* what is left holds weights, 2 % of them more than the files say, with 5 % lost to the division.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.api.quantity import Quantity
from kaito.models.entries import GIB

if TYPE_CHECKING:
    from kaito.models.entries import Preset, Sku

PUBLISHED = "published"
"""The engine that stands for the server of a published preset image."""

UTILIZATION = 0.84
RESERVE_GIB = 2.3
SPLIT_LOSS = 1.05
WEIGHTS_MARGIN = 1.02
DEFAULT_LENGTH = 2048
"""Tokens of the one request for which there has to be a cache."""
VLLM_CAPABILITY = 7.0
"""CUDA compute capability below which vLLM does not run."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A judgement."""

    problem: str = ""
    """Why it does not fit, with the arithmetic and what to do; empty where it fits."""
    arithmetic: str = ""
    """How the need was found."""
    nodes: int = 1
    """Nodes for the workload."""
    spread: bool = False
    """One model over all the nodes, where each node by itself would be a replica otherwise."""
    processes: int = 1
    """Of a tuning job, on its node."""


FITS = Fit()


def gib(amount: float) -> Quantity:
    """The quantity of ``amount`` GiB, in whole MiB."""
    return Quantity.parse(f"{math.ceil(amount * 1024)}Mi")


def fit(preset: Preset, sku: Sku, count: int, *, engine: str, max_length: int = 0) -> Fit:
    """Whether ``count`` nodes of ``sku`` can serve ``preset`` with ``engine``, and with how many nodes.

    ``max_length`` is the longest request in tokens, 0 for the default.
    """
    if sku.vendor != "nvidia":
        return Fit(f"{sku.name} has no NVIDIA GPU, which preset {preset.name} needs", nodes=count)
    if engine == PUBLISHED:
        return _published(preset, sku, count)
    if engine == "vllm" and 0 < sku.capability < VLLM_CAPABILITY:
        return Fit(
            f"vLLM needs GPUs of compute capability {VLLM_CAPABILITY:g} or newer; the {sku.model} of {sku.name} "
            f"has {sku.capability:g}"
        )
    return _own(preset, sku, count, engine, max_length)


def _published(preset: Preset, sku: Sku, count: int) -> Fit:
    """What the publisher of the image names: GPUs, memory on each of them, memory in all."""
    together, per_gpu = f"{count} x {sku.name}", sku.memory.floor_gib() // sku.gpus
    problems = []
    if count * sku.gpus < preset.gpus:
        problems.append(f"{together} has {count * sku.gpus} GPUs; preset {preset.name} needs {preset.gpus}")
    if per_gpu < preset.per_gpu_memory.ceil_gib():
        problems.append(
            f"{sku.name} has {per_gpu}Gi of memory on each GPU; preset {preset.name} needs {preset.per_gpu_memory}"
        )
    if sku.memory * count < preset.memory:
        problems.append(
            f"{together} has {sku.memory * count} of GPU memory; preset {preset.name} needs {preset.memory}"
        )
    if preset.distributed and preset.world_size % count:
        problems.append(
            f"preset {preset.name} runs as {preset.world_size} processes, which cannot be shared evenly by {count} nodes"
        )
    need = f"{preset.gpus} GPUs with {preset.memory} in all"
    return Fit("; ".join(problems), need, nodes=count, spread=preset.distributed)


def _own(preset: Preset, sku: Sku, count: int, engine: str, max_length: int) -> Fit:
    model = preset.facts
    length = max_length or min(DEFAULT_LENGTH, model.context)
    available = sku.per_gpu_gib * UTILIZATION
    reserve = RESERVE_GIB + length * model.kv_bytes / sku.gpus / GIB
    room = (available - reserve) / SPLIT_LOSS
    need = model.weights * WEIGHTS_MARGIN
    told = (
        f"{need:.1f} GiB of weights; of {sku.per_gpu_gib:.0f} GiB on each GPU {available:.1f} are used, "
        f"{reserve:.1f} of them for the cache of {length} tokens and the runtime"
    )
    if room <= 0:
        return Fit(f"{sku.name} is too small for {preset.name}: {told}, which leaves nothing for weights", told)
    gpus = math.floor(need / room) + 1
    nodes = math.ceil(gpus / sku.gpus)
    told += f", {room:.1f} for weights: {gpus} GPU{'s' if gpus > 1 else ''}"
    if nodes > 1 and engine == "transformers":
        return Fit(
            f"{sku.name} is too small for {preset.name}: {told}, and the transformers engine uses one node only; choose "
            "a larger size, or the annotation kaito.sh/runtime: vllm",
            told,
        )
    return Fit("", told, nodes=max(count, nodes), spread=nodes > 1)
