"""The entries of the catalogue: models, presets, instance types."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from kaito.api.quantity import Quantity

GIB = 2**30
NO_MEMORY = Quantity(0)

Engine = Literal["transformers", "vllm", "openvino"]
ENGINES: tuple[Engine, ...] = ("transformers", "vllm", "openvino")
"""What kaito's own model server can run a model with."""

Amount = Annotated[Quantity, BeforeValidator(lambda value: Quantity.parse(value) if isinstance(value, str) else value)]


class Facts(BaseModel):
    """One part of a data file; a field that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Shape(Facts):
    """The dimensions of a transformer."""

    hidden: int
    layers: int
    intermediate: int
    vocab: int


class Model(Facts):
    """A model on the Hugging Face hub."""

    name: str
    weights: float
    """GiB of all weight files, as they are stored."""
    kv_bytes: int
    """Bytes of key-value cache for a token, over all layers, at half precision."""
    attention: Literal["MHA", "GQA", "MQA", "MLA"]
    context: int
    """Tokens."""
    architecture: str
    licence: str
    quantization: str = ""
    tool_parser: str = ""
    reasoning_parser: str = ""
    chat_template: str = ""
    tokenizer_mode: str = ""
    format: str = ""
    kv_cache_dtype: str = ""
    gdn_prefill_backend: str = ""
    expert_parallel: bool = False
    autotune: bool = True
    transformers: bool = False
    openvino: str = ""
    """Its export for OpenVINO on the hub, with weights of four bits; empty where there is none."""
    gated: bool = False
    shape: Shape | None = None

    @property
    def disk(self) -> Quantity:
        """OS disk of a node that downloads the weights."""
        return Quantity.gib(int(self.weights + 80))

    @property
    def timeout(self) -> int:
        """Seconds until a replica should be ready: a download of 18 s for each GiB, between 30 and 180 minutes."""
        return int(min(max(900 + 18 * self.weights, 1800), 10800))

    @property
    def engines(self) -> tuple[Engine, ...]:
        able = {"vllm": True, "transformers": self.transformers, "openvino": bool(self.openvino)}
        return tuple(engine for engine in ENGINES if able[engine])


class TuningPreset(Facts):
    """What fine-tuning a preset needs beside memory, which :mod:`kaito.models.tuning` judges."""

    disk: Amount
    gpus: int = 1
    parameters: dict[str, str] = {}
    """Flags of the launcher beside ``num_processes``."""
    timeout: int = 1800
    """Seconds until the job should have started."""


class Preset(Facts):
    """A model that kaito knows how to run."""

    name: str
    model: str
    """The model's name on the Hugging Face hub."""
    family: str
    access: Literal["public", "private"] = "public"
    tag: str = ""
    """Tag of the public image with the weights; empty where there is none."""
    disk: Amount
    """OS disk of a node."""
    gpus: int
    """GPUs for the whole model."""
    memory: Amount
    """GPU memory for the whole model."""
    per_gpu_memory: Amount = NO_MEMORY
    timeout: int = 1800
    """Seconds until a replica should be ready."""
    launcher: Literal["accelerate", "torchrun"] = "accelerate"
    parameters: dict[str, str] = {}
    """Flags of the model server."""
    world_size: int = 1
    revision: str = ""
    """Commit of the weights on the Hugging Face hub, abbreviated."""
    tuning: TuningPreset | None = None
    facts: Model

    @property
    def private_only(self) -> bool:
        return self.access == "private"

    @property
    def published(self) -> bool:
        """Whether there is an image with the model and a server; otherwise kaito's own server downloads the weights."""
        return bool(self.tag)

    @property
    def distributed(self) -> bool:
        """Whether the published image spreads the model over processes on several nodes."""
        return self.world_size > 1

    @property
    def engines(self) -> tuple[Engine, ...]:
        """What kaito's own server can run it with; nothing where the weights are in a form of the image's own."""
        return () if self.launcher == "torchrun" else self.facts.engines

    def image(self, registry: str) -> str:
        """The public image in ``registry``, such as ``mcr.microsoft.com/aks/kaito/kaito-falcon-7b:0.0.6``."""
        return f"{registry}/kaito-{self.name}:{self.tag}"


class Accelerator(Facts):
    """What is the same for every accelerator of a model."""

    capability: float = 0.0
    """CUDA compute capability; 0 for what is not CUDA."""
    cost: float
    """US dollars an hour on demand, roughly."""


class Sku(Facts):
    """An instance type, or a node, with accelerators."""

    name: str
    gpus: int
    memory: Amount
    """Memory of all accelerators together."""
    model: str
    vendor: Literal["nvidia", "amd", "aws"] = "nvidia"
    capability: float = 0.0
    cost: float = 0.0
    """US dollars an hour, roughly; 0 where it is not known."""

    @property
    def per_gpu_memory(self) -> Quantity:
        return self.memory // self.gpus

    @property
    def per_gpu_gib(self) -> float:
        return self.memory.ceil() / self.gpus / GIB
