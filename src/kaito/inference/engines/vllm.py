"""The engine for throughput on GPUs: builds vLLM's command line and becomes vLLM."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from kaito.inference.engines import ray
from kaito.inference.errors import ConfigError
from kaito.scratch import Scratch

if TYPE_CHECKING:
    from kaito.inference.adapters import Models
    from kaito.inference.settings import Settings
    from kaito.termination import Termination

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for the largest rank of an adapter."""
_IGNORED = frozenset({"kaito_kv_cache_cpu_memory_utilization", "kaito_disable_rate_limit", "kaito_max_probe_steps"})
"""Flags of the published server that say nothing to vLLM."""


@dataclass(frozen=True, slots=True)
class Module:
    """An adapter as vLLM serves it: a model id, and a directory with its strength in the weights."""

    name: str
    path: str
    rank: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How this pod takes part: ``command`` serves, after ``head`` of a Ray cluster of ``nodes`` or as a ``worker`` of one."""

    command: tuple[str, ...]
    head: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    nodes: int = 1


def run(settings: Settings, models: Models, environ: Mapping[str, str], termination: Termination) -> NoReturn:
    """Become vLLM, or a worker of one on another node. Raises ConfigError and ModelError."""
    modules = _modules(settings, models)
    names = [name for name, mix in models.mixes.items() if not mix]
    launch = plan(settings, names, modules, environ)
    if launch.worker:
        ray.work(launch.worker, settings.host, settings.port, termination)
    if launch.head:
        ray.lead(launch.head, launch.nodes, termination)
    os.execvpe(launch.command[0], launch.command, dict(environ))


def plan(settings: Settings, names: Sequence[str], modules: Sequence[Module], environ: Mapping[str, str]) -> Launch:
    """What to run, from the settings, the ids of the model itself, those of adapters, and ``POD_INDEX``; raises ConfigError."""
    command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments(settings, names, modules))
    address = str(settings.extra.get("ray_address", ""))
    if not address:
        return Launch(command)
    index, nodes = environ.get("POD_INDEX", ""), settings.extra.get("pipeline_parallel_size", 1)
    if not index.isdigit() or not str(nodes).isdigit():
        raise ConfigError(
            f"--ray-address: needs POD_INDEX and --pipeline-parallel-size as numbers, not {index!r}, {nodes!r}"
        )
    if int(index):
        return Launch(command, worker=("ray", "start", f"--address={address}", "--block", "--disable-usage-stats"))
    port = address.rpartition(":")[2]
    head = ("ray", "start", "--head", f"--port={port}", "--disable-usage-stats")
    return Launch(command, head=head, nodes=int(nodes))


def arguments(settings: Settings, names: Sequence[str], modules: Sequence[Module]) -> list[str]:
    """The command line of vLLM's server, where the model itself is ``names``. Flags that are not ours are passed on."""
    given = settings.model_fields_set
    flags: dict[str, Any] = {
        "model": settings.stand_in or settings.model,
        "host": settings.host,
        "port": settings.port,
        "max_model_len": settings.max_model_len or "auto",
        "revision": settings.revision or None,
        "dtype": settings.dtype if settings.dtype != "auto" else None,
        "trust_remote_code": settings.trust_remote_code or None,
        "chat_template": settings.chat_template or None,
        "max_num_seqs": settings.max_batch if "max_batch" in given else None,
        "disable_access_log_for_endpoints": "/health,/metrics",
    }
    if modules:
        flags |= {"enable_lora": True, "max_loras": len(modules), "max_lora_rank": _rank(modules)}
    flags |= {name: value for name, value in settings.extra.items() if name not in _IGNORED | {"ray_address"}}
    words = [word for name, value in sorted(flags.items()) if value is not None for word in _flag(name, value)]
    words += ["--served-model-name", *names]
    if modules:
        words.append("--lora-modules")
        words += [json.dumps({"name": each.name, "path": each.path, "base_model_name": names[0]}) for each in modules]
    return words


def _rank(modules: Sequence[Module]) -> int:
    largest = max(module.rank for module in modules)
    if largest > _RANKS[-1]:
        raise ConfigError(
            f"the adapters have rank {largest} together, vLLM takes {_RANKS[-1]}: --combination-type=svd cuts it"
        )
    return next(rank for rank in _RANKS if rank >= largest)


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}={json.dumps(value) if isinstance(value, (dict, list)) else value}"]


def _modules(settings: Settings, models: Models) -> tuple[Module, ...]:
    """A directory for each model id that has adapters, written once at start."""
    mixes = {name: mix for name, mix in models.mixes.items() if mix}
    if not mixes:
        return ()
    from kaito.inference import lora

    root = Scratch("adapters").path
    modules = []
    for index, (name, mix) in enumerate(mixes.items()):
        directory = root / str(index)
        rank = lora.write(directory, lora.combined(mix, settings.combination_type), settings.model)
        modules.append(Module(name, str(directory), rank))
    return tuple(modules)
