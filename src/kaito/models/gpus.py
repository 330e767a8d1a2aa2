"""What a node says about its own GPUs: the labels of NVIDIA's GPU feature discovery, and its capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api.quantity import Quantity
from kaito.models.entries import Sku

if TYPE_CHECKING:
    from collections.abc import Mapping

PRODUCT = "nvidia.com/gpu.product"
COUNT = "nvidia.com/gpu.count"
MEMORY = "nvidia.com/gpu.memory"
"""MiB on each GPU."""
CAPABILITY = ("nvidia.com/cuda.compute.major", "nvidia.com/cuda.compute.minor")


def sku_of_node(name: str, labels: Mapping[str, str], gpus: int) -> Sku | None:
    """The node's GPUs as an instance type of the node's own; None where its labels do not say.

    ``gpus`` are those that it announces; 0 for not yet. GiB are rounded to the nearest, halves up.
    """
    announced, memory = labels.get(COUNT, ""), labels.get(MEMORY, "")
    count = gpus or (int(announced) if announced.isdigit() else 0)
    if not count or not memory.isdigit():
        return None
    per_gpu = (int(memory) * 2 + 1024) // 2048
    if not per_gpu:
        return None
    major, minor = (labels.get(key, "") for key in CAPABILITY)
    capability = float(f"{major}.{minor or 0}") if major.isdigit() and (minor or "0").isdigit() else 0.0
    return Sku(
        name=name,
        gpus=count,
        memory=Quantity.gib(per_gpu * count),
        model=labels.get(PRODUCT, "GPU"),
        capability=capability,
    )
