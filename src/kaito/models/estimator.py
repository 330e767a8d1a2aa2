"""How many GPUs and nodes serving a model takes. Pure arithmetic over the facts of the catalogue.

Published images state what they need. For kaito's own server the need follows from the model's weights and the
key-value cache of one request, as vLLM divides the memory of a GPU:

* of each GPU 84 % is used; 2.3 GiB and this GPU's part of the cache of one request are set aside;
* what is left holds weights, 2 % of them more than the files say, with 5 % lost to the division.

Without GPUs the model is in the memory of its node, of which 85 % is used: weights of the exports for OpenVINO have four
bits, those that need more among them, and take a third of the files in half precision.
"""

from __future__ import annotations

import math
import re
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
CPU_UTILIZATION = 0.85
CPU_RESERVE_GIB = 1.5
OPENVINO_SHARE = 1 / 3
"""Of Phi-3-mini, 2.15 GB of 7.64 GB: 0.28."""
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


_D_SERIES = re.compile(r"standard_d(\d+)(?:-\d+)?([a-z]*)_v[3-9]\d*", re.IGNORECASE)


def cpu_memory(size: str) -> float | None:
    """GiB of memory of a size without GPUs; None where its name does not tell.

    Azure's D series from v3 on has 4 GiB for each of the CPUs in its name, with an ``l`` behind them 2.
    """
    found = _D_SERIES.fullmatch(size)
    if found is None:
        return None
    return int(found[1]) * (2.0 if "l" in found[2].lower() else 4.0)


def fit_cpu(preset: Preset, size: str, count: int, *, engine: str, max_length: int = 0) -> Fit:
    """Whether each of ``count`` nodes of ``size`` can serve ``preset`` from its own memory."""
    memory = cpu_memory(size)
    if memory is None:
        return Fit(nodes=count)
    model = preset.facts
    length = max_length or min(DEFAULT_LENGTH, model.context)
    weights = model.weights * (OPENVINO_SHARE if engine == "openvino" else WEIGHTS_MARGIN)
    reserve = CPU_RESERVE_GIB + length * model.kv_bytes / GIB
    available = memory * CPU_UTILIZATION
    told = (
        f"{weights:.1f} GiB of weights, {reserve:.1f} GiB for the cache of {length} tokens and the runtime; of "
        f"{memory:.0f} GiB of memory {available:.1f} are used"
    )
    if weights + reserve > available:
        return Fit(f"{size} is too small for {preset.name}: {told}", told, nodes=count)
    return Fit("", told, nodes=count)


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
