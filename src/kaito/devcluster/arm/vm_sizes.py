"""The VM sizes that the emulator offers, with what a machine of each has."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import msgspec


@dataclass(frozen=True, slots=True)
class VmSize:
    name: str
    cpu: int
    memory_gib: int
    gpus: int = 0


class _Row(msgspec.Struct, frozen=True, rename={"memory_gib": "memoryGiB"}, forbid_unknown_fields=True):
    cpu: int
    memory_gib: int
    gpus: int


def _load() -> dict[str, VmSize]:
    rows = msgspec.json.decode(
        files("kaito.devcluster.arm").joinpath("vm_sizes.json").read_bytes(), type=dict[str, _Row]
    )
    return {name: VmSize(name, row.cpu, row.memory_gib, row.gpus) for name, row in rows.items()}


VM_SIZES: Final = _load()
"""By name; the GPU counts are those of kaito's catalogue of instance types."""
