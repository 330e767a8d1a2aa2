"""With what a preset is served: the image that its publisher made, or kaito's own model server with one of its engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaito.models.entries import ENGINES
from kaito.models.estimator import FITS, PUBLISHED, Fit, fit, fit_cpu

if TYPE_CHECKING:
    from kaito.models.entries import Preset, Sku

CPU_FAMILIES = ("standard_d",)
"""Beginnings, in lower case, of instance types that have no accelerator."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The way in which a preset is served."""

    engine: str = PUBLISHED
    fit: Fit = FITS
    problem: str = ""
    """Why it cannot be served so, whatever the size of its memory; empty where it can."""
    gpu: bool = True
    """Whether a replica needs GPUs."""


def choose(
    preset: Preset,
    size: str,
    sku: Sku | None,
    *,
    count: int,
    wanted: str = "",
    private: bool = False,
    own_image: bool = False,
    adapters: bool = False,
    max_length: int = 0,
) -> Serving:
    """How to serve ``preset`` on ``count`` nodes of ``size``.

    ``sku`` is what is known of the size, None for nothing. ``wanted`` is the engine that the user named, ``own_image``
    whether there is an image of kaito's own server, ``private`` whether the user brings an image of the model, ``adapters``
    whether there are any.
    """
    gpu = sku is not None or not size.casefold().startswith(CPU_FAMILIES)
    engine = wanted or _default(preset, private=private, gpu=gpu, own_image=own_image, adapters=adapters)
    if engine == PUBLISHED:
        if not gpu:
            ways = "choose a size with GPUs"
            if _on_cpu(preset, adapters=adapters) and not private:
                ways += ", or start the operator with --runtime-image, to run it on the CPU"
            return Serving(engine, problem=f"{size} has no GPU, which preset {preset.name} needs: {ways}")
    elif problem := _own_problem(
        preset, engine, size, private=private, gpu=gpu, own_image=own_image, adapters=adapters
    ):
        return Serving(engine, problem=problem)
    if not gpu or engine == "openvino":
        return Serving(engine, fit_cpu(preset, size, count, engine=engine, max_length=max_length), gpu=False)
    if sku is None:
        return Serving(engine, Fit(nodes=count, spread=engine == PUBLISHED and preset.distributed))
    return Serving(engine, fit(preset, sku, count, engine=engine, max_length=max_length))


def _default(preset: Preset, *, private: bool, gpu: bool, own_image: bool, adapters: bool) -> str:
    if private:
        return PUBLISHED
    if not gpu:
        return (_on_cpu(preset, adapters=adapters) if own_image else "") or PUBLISHED
    return PUBLISHED if preset.published else "vllm"


def _on_cpu(preset: Preset, *, adapters: bool) -> str:
    """The engine for nodes without GPUs; empty where there is none. Exports for OpenVINO take no adapters."""
    engines = ("transformers",) if adapters else ("openvino", "transformers")
    return next((engine for engine in engines if engine in preset.engines), "")


def _own_problem(
    preset: Preset, engine: str, size: str, *, private: bool, gpu: bool, own_image: bool, adapters: bool
) -> str:
    if engine not in ENGINES:
        return f"{engine!r} is not an engine; supported are: {', '.join(ENGINES)}"
    if private:
        return "an image of your own brings its own server: remove the annotation kaito.sh/runtime, or set accessMode to public"
    if engine not in preset.engines:
        able = (
            f"supported are: {', '.join(preset.engines)}" if preset.engines else "its published image has to serve it"
        )
        return f"{engine} cannot serve preset {preset.name}; {able}"
    if not own_image:
        return (
            f"preset {preset.name} with {engine} needs kaito's own model server, and this operator was started without "
            "--runtime-image"
        )
    if engine == "vllm" and not gpu:
        other = _on_cpu(preset, adapters=adapters)
        way = f", or the annotation kaito.sh/runtime: {other}" if other else ""
        return f"{size} has no GPU, which vllm needs: choose another size{way}"
    if engine == "openvino" and adapters:
        return "openvino serves models without adapters: remove them, or the annotation kaito.sh/runtime"
    return ""
