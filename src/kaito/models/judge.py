"""Whether a Workspace can be run as it asks: the catalogue's part of validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaito.api import labels
from kaito.api.validation.facts import FieldError
from kaito.models.estimator import PUBLISHED
from kaito.models.serving import choose
from kaito.models.tuning import TuningSettings, fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.api.validation.facts import Policy
    from kaito.api.workspace import InferenceSpec, PresetSpec, TuningSpec, Workspace
    from kaito.models.catalogue import Catalogue
    from kaito.models.entries import Preset, Sku
    from kaito.models.serving import Serving

SIZE = "resource.instanceType"
RUNTIME = f"metadata.annotations[{labels.RUNTIME}]"
BASE = "base"
"""What kaito's own server calls the model without its adapters."""


def objections(obj: Workspace, catalogue: Catalogue, policy: Policy) -> Iterator[FieldError]:
    """What presets, engines and sizes make impossible. What is wrong otherwise is passed over: others tell of it."""
    size = obj.resource.instance_type if policy.makes_nodes else ""
    sku = catalogue.sku(policy.cloud, size) if size else None
    if obj.inference is not None and obj.inference.preset is not None:
        yield from _inference(obj, obj.inference, obj.inference.preset, catalogue, policy, size, sku)
    if obj.tuning is not None and obj.tuning.preset is not None:
        yield from _tuning(obj.tuning, obj.tuning.preset, catalogue, policy, size, sku)


def serving_of(
    obj: Workspace, spec: PresetSpec, preset: Preset, policy: Policy, size: str, sku: Sku | None, *, max_length: int = 0
) -> Serving:
    """How ``obj`` is served on nodes of ``size``."""
    return choose(
        preset,
        size,
        sku,
        count=max(1, obj.resource.count),
        wanted=obj.metadata.annotation(labels.RUNTIME) or "",
        private=spec.access_mode == "private",
        own_image=policy.own_image,
        adapters=bool(obj.inference and obj.inference.adapters),
        max_length=max_length,
    )


def _inference(
    obj: Workspace,
    inference: InferenceSpec,
    spec: PresetSpec,
    catalogue: Catalogue,
    policy: Policy,
    size: str,
    sku: Sku | None,
) -> Iterator[FieldError]:
    preset = catalogue.preset(spec.name)
    if preset is None:
        return
    serving = serving_of(obj, spec, preset, policy, size, sku)
    if serving.problem:
        yield FieldError(RUNTIME if obj.metadata.annotation(labels.RUNTIME) else SIZE, serving.problem, "NotSupported")
    elif serving.fit.problem:
        yield FieldError(SIZE, serving.fit.problem, bypassable=True)
    elif serving.engine == "vllm" and preset.facts.gated and not spec.preset_options.model_access_secret:
        yield FieldError(
            "inference.preset.presetOptions.modelAccessSecret",
            f"{preset.model} is downloaded with the token of somebody who accepted its licence: name a Secret with HF_TOKEN",
            "Required",
        )
    if serving.engine == PUBLISHED:
        return
    for index, adapter in enumerate(inference.adapters or ()):
        name = adapter.source.name if adapter.source else None
        if name in (BASE, preset.name):
            path = f"inference.adapters[{index}].source.name"
            yield FieldError(path, f"the model itself is served as {name!r}: choose another name")


def _tuning(
    tuning: TuningSpec, spec: PresetSpec, catalogue: Catalogue, policy: Policy, size: str, sku: Sku | None
) -> Iterator[FieldError]:
    preset = catalogue.preset(spec.name)
    if preset is None or preset.tuning is None:
        return
    if not (preset.published or policy.own_image or spec.access_mode == "private"):
        yield FieldError(
            "tuning.preset.name",
            f"preset {preset.name} has no published image: it is tuned by kaito's own tuner, and this operator was started "
            "without --runtime-image",
            "NotSupported",
        )
    if size and sku is None and choose(preset, size, sku, count=1).problem:
        yield FieldError(SIZE, f"{size} has no GPU, which tuning {preset.name} needs", "NotSupported")
    elif sku is not None and sku.vendor != "nvidia":
        yield FieldError(SIZE, f"{size} has no NVIDIA GPU, which tuning {preset.name} needs", "NotSupported")
    elif sku is not None and not tuning.config and tuning.method.lower() in ("lora", "qlora"):
        problem = fit(preset, sku, TuningSettings.of(tuning.method)).problem
        if problem:
            yield FieldError(SIZE, problem, bypassable=True)
