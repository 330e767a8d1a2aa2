"""How busy the machine is, in the words of ``GET /metrics`` with ``Accept: application/json``."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import psutil

_QUERY = "index,name,utilization.gpu,temperature.gpu,memory.used,memory.total"
_MIB, _GIB = 1 << 20, 1 << 30


async def usage() -> dict[str, Any]:
    """``gpu_info`` where there are GPUs, else ``cpu_info``; the other is None."""
    gpus = await _gpus()
    return {"gpu_info": gpus or None, "cpu_info": None if gpus else _cpu()}


def _cpu() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "load_percentage": psutil.cpu_percent(interval=None),
        "physical_cores": psutil.cpu_count(logical=False),
        "total_cores": psutil.cpu_count(logical=True),
        "memory": {"used": _size(memory.used), "total": _size(memory.total)},
    }


async def _gpus() -> list[dict[str, Any]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    process = await asyncio.create_subprocess_exec(
        program,
        f"--query-gpu={_QUERY}",
        "--format=csv,noheader,nounits",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return parse_gpus(output.decode()) if process.returncode == 0 else []


def parse_gpus(lines: str) -> list[dict[str, Any]]:
    """GPUs from what ``nvidia-smi`` prints as CSV without units: percent, degrees Celsius and MiB."""
    found = []
    for line in lines.splitlines():
        index, name, load, temperature, used, total = (part.strip() for part in line.split(","))
        found.append(
            {
                "id": index,
                "name": name,
                "load": f"{float(load):.2f}%",
                "temperature": f"{temperature} C",
                "memory": {"used": _size(int(used) * _MIB), "total": _size(int(total) * _MIB)},
            }
        )
    return found


def _size(count: int) -> str:
    return f"{count / _GIB:.2f} GB"
