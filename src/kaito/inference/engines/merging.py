"""Copies of GGUF files: with adapters added to the weights, and in a type that the engine reads exactly."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import gguf
import numpy

from kaito.inference import lora
from kaito.inference.errors import ModelError
from kaito.inference.lora import Combination, Factors
from kaito.inference.protocol import Mix

_PERMUTED = {"llama": ("attn_q", "attn_k")}
"""By architecture, weights whose rows GGUF has in the order of its rotary embedding: halves of a head interleaved."""
APPROXIMATED = frozenset({gguf.GGMLQuantizationType.Q4_1})
"""Types whose files OpenVINO 2026.4 reads with other numbers than they stand for: another token becomes the likeliest."""


def approximated(path: Path) -> bool:
    """OpenVINO would read some weights of ``path`` with other numbers."""
    return any(tensor.tensor_type in APPROXIMATED for tensor in gguf.GGUFReader(str(path)).tensors)


def merged(path: Path, mix: Mix, combination: Combination, directory: Path, *, unpack: bool) -> Path:
    """A GGUF file in ``directory`` with the weights of ``path`` and what ``mix`` adds to them; the caller removes it.

    Weights that are added to are in float16, and with ``unpack`` all that are quantised; all others are as they were.
    Raises ModelError for adapters that do not fit.
    """
    reader = gguf.GGUFReader(str(path))
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    deltas = _by_tensor(reader, architecture, lora.combined(mix, combination), path)
    handle, name = mkstemp(suffix=".gguf", dir=directory)
    os.close(handle)
    writer = gguf.GGUFWriter(name, architecture, endianess=reader.endianess)
    written = {gguf.Keys.General.ARCHITECTURE, *([gguf.Keys.General.FILE_TYPE] if unpack else [])}
    for field in reader.fields.values():
        if field.name not in written and not field.name.startswith("GGUF."):
            kind = field.types[0]
            writer.add_key_value(
                field.name,
                field.contents(),
                kind,
                sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None,
            )
    if unpack:
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        factors = deltas.get(tensor.name)
        if factors or (unpack and tensor.tensor_type != gguf.GGMLQuantizationType.F32):
            weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if factors:
                weight = weight + _rows(reader, architecture, tensor.name, factors)
            writer.add_tensor(tensor.name, weight.astype(numpy.float16))
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(name)


def _by_tensor(reader: Any, architecture: str, modules: Mapping[str, Factors], path: Path) -> dict[str, Factors]:
    """``modules`` by the names that GGUF has for them."""
    shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in reader.tensors}
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = int(reader.get_field(gguf.Keys.LLM.BLOCK_COUNT.format(arch=architecture)).contents())
    names = gguf.get_tensor_name_map(kinds[architecture], blocks)
    found: dict[str, Factors] = {}
    for module, (a, b) in modules.items():
        name = f"{names.get_name(module)}.weight"
        if name not in shapes:
            raise ModelError(
                f"an adapter changes {module}, which {path.name} does not have: it was made for another model"
            )
        if shapes[name] != (b.shape[0], a.shape[1]):
            raise ModelError(
                f"an adapter changes {module} with {b.shape[0]} x {a.shape[1]} numbers, and the weight in {path.name} has "
                f"{' x '.join(map(str, shapes[name]))}: it was made for another model"
            )
        found[name] = a, b
    return found


def _rows(reader: Any, architecture: str, name: str, factors: Factors) -> Any:
    """What is added to the tensor ``name``, with its rows in GGUF's order."""
    a, b = factors
    found = re.search(r"\.(attn_[qk])\.weight$", name)
    if found and found[1] in _PERMUTED.get(architecture, ()):
        key = gguf.Keys.Attention.HEAD_COUNT if found[1] == "attn_q" else gguf.Keys.Attention.HEAD_COUNT_KV
        heads = int(reader.get_field(key.format(arch=architecture)).contents())
        b = b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
    return b @ a
