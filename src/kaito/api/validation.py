"""What a Workspace must satisfy, said in Python: for admission, for the controller, and for tools without a cluster.

The CustomResourceDefinition enforces what a schema can express; these functions say the same and add what needs the
preset catalogue. All errors of an object are found at once. The same rules hold on create and on update, but an update
is not blamed for what was wrong before it, and an object that is being deleted is not checked at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kaito.api import labels, workspace
from kaito.api.workspace import MAX_ADAPTERS, PLACEHOLDER, TUNING_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kaito.api.quantity import Quantity
    from kaito.api.workspace import AdapterSpec, DataSource, InferenceSpec, PresetSpec, TuningSpec, Workspace

Kind = Literal["Required", "Invalid", "NotSupported", "Forbidden", "Duplicate", "TooMany"]

AZURE_PREFIXES = ("Standard_N", "Standard_D")
"""Azure sizes that are accepted without being in the catalogue."""

_LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_LABEL_NAME}")
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME})?")


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field, and what to do."""

    path: str
    message: str
    kind: Kind = "Invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class TuningFacts(Protocol):
    @property
    def gpus(self) -> int: ...
    @property
    def minimum(self) -> Mapping[str, int]: ...


class PresetFacts(Protocol):
    @property
    def gpus(self) -> int: ...
    @property
    def memory(self) -> Quantity: ...
    @property
    def per_gpu_memory(self) -> Quantity: ...
    @property
    def private_only(self) -> bool: ...
    @property
    def tuning(self) -> TuningFacts | None: ...


class SkuFacts(Protocol):
    @property
    def gpus(self) -> int: ...
    @property
    def memory(self) -> Quantity: ...
    @property
    def vendor(self) -> str: ...


class Catalogue(Protocol):
    """The facts about presets and instance types that validation asks for."""

    def preset(self, name: str) -> PresetFacts | None: ...
    def preset_names(self) -> tuple[str, ...]: ...
    def sku(self, cloud: str, name: str) -> SkuFacts | None: ...
    def sku_names(self, cloud: str) -> tuple[str, ...]: ...


def validate(obj: Workspace, catalogue: Catalogue, cloud: str) -> list[FieldError]:
    """Everything that is wrong with a new Workspace; ``cloud`` is ``azure`` or ``aws``."""
    return list(_workspace(obj, catalogue, cloud))


def validate_update(new: Workspace, old: Workspace, catalogue: Catalogue, cloud: str) -> list[FieldError]:
    """Everything that is wrong with changing ``old`` into ``new``."""
    if new.metadata.deletion_timestamp is not None:
        return []
    before = set(_workspace(old, catalogue, cloud))
    return [
        *_changes(new, old),
        *(error for error in _workspace(new, catalogue, cloud) if error not in before),
    ]


def _workspace(obj: Workspace, catalogue: Catalogue, cloud: str) -> Iterator[FieldError]:
    name = obj.metadata.name
    if name and (len(name) > 63 or not re.fullmatch(workspace.NAME_PATTERN, name)):
        yield FieldError("metadata.name", workspace.NAME_FORM)
    if obj.inference is None and obj.tuning is None:
        yield FieldError("inference", "one of inference and tuning is needed", "Required")
    if obj.inference is not None and obj.tuning is not None:
        yield FieldError("tuning", "inference and tuning exclude each other: remove one", "Forbidden")
    yield from _resource(obj, catalogue, cloud)
    if obj.inference is not None:
        yield from _inference(obj.inference, catalogue)
    if obj.tuning is not None:
        yield from _tuning(obj.tuning, catalogue)


def _resource(obj: Workspace, catalogue: Catalogue, cloud: str) -> Iterator[FieldError]:
    resource = obj.resource
    if resource.count < 1:
        yield FieldError("resource.count", "must be at least 1")
    if obj.tuning is not None and resource.count > 1:
        yield FieldError("resource.count", "tuning runs on one node: set count to 1")
    yield from _selector(obj)

    size, path = resource.instance_type, "resource.instanceType"
    sku = catalogue.sku(cloud, size)
    if sku is None:
        if cloud != "azure" or not size.startswith(AZURE_PREFIXES):
            known = ", ".join(catalogue.sku_names(cloud))
            yield FieldError(path, f"{size!r} is not a supported instance type; supported are: {known}", "NotSupported")
        return
    preset = _preset_of(obj)
    facts = catalogue.preset(preset.name) if preset is not None else None
    if facts is None or preset is None:
        return
    if sku.vendor != "nvidia":
        yield FieldError(path, f"{size} has no NVIDIA GPU, which preset {preset.name} needs", "NotSupported")
    elif obj.inference is not None:
        yield from _fits(resource.count, size, sku, preset.name, facts)
    elif obj.tuning is not None and facts.tuning is not None:
        needed = facts.tuning.minimum.get(obj.tuning.method.lower(), 0)
        if sku.memory.floor_gib() < needed:
            yield FieldError(
                path,
                f"{size} has {sku.memory} of GPU memory; tuning {preset.name} with {obj.tuning.method.lower()} "
                f"needs {needed}Gi",
            )


def _fits(count: int, size: str, sku: SkuFacts, preset: str, facts: PresetFacts) -> Iterator[FieldError]:
    path, together = "resource.instanceType", f"{count} x {size}"
    if count * sku.gpus < facts.gpus:
        yield FieldError(path, f"{together} has {count * sku.gpus} GPUs; preset {preset} needs {facts.gpus}")
    per_gpu = sku.memory.floor_gib() // sku.gpus
    if per_gpu < facts.per_gpu_memory.ceil_gib():
        yield FieldError(
            path, f"{size} has {per_gpu}Gi of memory on each GPU; preset {preset} needs {facts.per_gpu_memory}"
        )
    if sku.memory * count < facts.memory:
        yield FieldError(
            path, f"{together} has {sku.memory * count} of GPU memory; preset {preset} needs {facts.memory}"
        )


def _selector(obj: Workspace) -> Iterator[FieldError]:
    path, selector = "resource.labelSelector", obj.resource.label_selector
    if selector is None:
        yield FieldError(path, "the labels of the nodes to run on are needed", "Required")
        return
    for index, term in enumerate(selector.match_expressions or ()):
        if term.operator != "In" or len(term.values or ()) != 1:
            yield FieldError(f"{path}.matchExpressions[{index}]", workspace.SELECTOR_FORM)
    own = {labels.WORKSPACE: obj.metadata.name, labels.WORKSPACE_NAMESPACE: obj.metadata.namespace}
    for key, value in selector.as_labels().items():
        if not _LABEL_KEY.fullmatch(key):
            yield FieldError(path, f"{key!r} is not a label key")
        if not _LABEL_VALUE.fullmatch(value):
            yield FieldError(path, f"{value!r} is not a label value")
        if key in own and value != own[key]:
            yield FieldError(path, f"label {key} of a node says which Workspace it was made for; choose another label")


def _inference(inference: InferenceSpec, catalogue: Catalogue) -> Iterator[FieldError]:
    if inference.preset is None and inference.template is None:
        yield FieldError("inference.preset", "one of preset and template is needed", "Required")
    if inference.preset is not None and inference.template is not None:
        yield FieldError("inference.template", "preset and template exclude each other: remove one", "Forbidden")
    if inference.preset is not None:
        yield from _preset("inference.preset", inference.preset, catalogue)
    adapters, path = inference.adapters or (), "inference.adapters"
    if adapters and inference.preset is None:
        yield FieldError(path, "adapters need a preset: a template brings its own", "Forbidden")
    if len(adapters) > MAX_ADAPTERS:
        yield FieldError(path, f"there are {len(adapters)} adapters; at most {MAX_ADAPTERS} are supported", "TooMany")
    seen: set[str] = set()
    for index, adapter in enumerate(adapters):
        yield from _adapter(f"{path}[{index}]", adapter)
        name = (adapter.source.name if adapter.source else None) or ""
        if name and name in seen:
            yield FieldError(f"{path}[{index}].source.name", f"two adapters are named {name!r}", "Duplicate")
        seen.add(name)


def _adapter(path: str, adapter: AdapterSpec) -> Iterator[FieldError]:
    source = adapter.source
    if source is None:
        yield FieldError(f"{path}.source", "name and image of the adapter are needed", "Required")
    else:
        if not source.name:
            yield FieldError(f"{path}.source.name", "an adapter needs a name", "Required")
        elif len(source.name) > 63 or not re.fullmatch(workspace.NAME_PATTERN, source.name):
            yield FieldError(f"{path}.source.name", workspace.ADAPTER_NAME_FORM)
        if source.urls or source.volume_source is not None:
            yield FieldError(
                f"{path}.source", "an adapter comes from an image: remove urls and volumeSource", "Forbidden"
            )
        if source.image is None:
            yield FieldError(f"{path}.source.image", "an adapter comes from an image", "Required")
        yield from _image(f"{path}.source.image", source.image, workspace.IMAGE_PATTERN, workspace.IMAGE_FORM)
        yield from _secrets(f"{path}.source.imagePullSecrets", source.image_pull_secrets)
    strength = adapter.strength
    if strength is not None and not (re.fullmatch(workspace.STRENGTH_PATTERN, strength) and float(strength) <= 1):
        yield FieldError(f"{path}.strength", workspace.STRENGTH_FORM)


def _preset(path: str, preset: PresetSpec, catalogue: Catalogue, *, tuning: bool = False) -> Iterator[FieldError]:
    facts = catalogue.preset(preset.name)
    if facts is None or (tuning and facts.tuning is None):
        known = (name for name in catalogue.preset_names() if not tuning or _tunable(catalogue, name))
        what = "cannot be tuned" if facts else "is not a supported preset"
        yield FieldError(f"{path}.name", f"{preset.name!r} {what}; supported are: {', '.join(known)}", "NotSupported")
    elif facts.private_only and preset.access_mode != "private":
        yield FieldError(
            f"{path}.accessMode",
            f"the image of {preset.name} is not public: set accessMode to private, and presetOptions.image",
        )
    options = preset.preset_options
    if preset.access_mode == "private" and not options.image:
        yield FieldError(
            f"{path}.presetOptions.image", "a private preset needs the image that holds the model", "Required"
        )
    yield from _image(f"{path}.presetOptions.image", options.image, workspace.IMAGE_PATTERN, workspace.IMAGE_FORM)
    yield from _secrets(f"{path}.presetOptions.imagePullSecrets", options.image_pull_secrets)


def _tunable(catalogue: Catalogue, name: str) -> bool:
    facts = catalogue.preset(name)
    return facts is not None and facts.tuning is not None


def _tuning(tuning: TuningSpec, catalogue: Catalogue) -> Iterator[FieldError]:
    if tuning.preset is None:
        yield FieldError("tuning.preset", "the model to tune is needed", "Required")
    else:
        yield from _preset("tuning.preset", tuning.preset, catalogue, tuning=True)
    if tuning.method.lower() not in TUNING_METHODS:
        yield FieldError("tuning.method", "must be lora or qlora")
    if tuning.input is None:
        yield FieldError("tuning.input", "the training data is needed", "Required")
    else:
        yield from _data_source("tuning.input", tuning.input)
    output, path = tuning.output, "tuning.output"
    if output is None:
        yield FieldError(path, "the place for the result is needed", "Required")
        return
    if output.volume_source is not None:
        yield FieldError(f"{path}.volumeSource", workspace.NO_OUTPUT_VOLUME, "Forbidden")
    elif not output.image:
        yield FieldError(f"{path}.image", "the image to push the result to is needed", "Required")
    yield from _image(f"{path}.image", output.image, workspace.OUTPUT_IMAGE_PATTERN, workspace.OUTPUT_IMAGE_FORM)
    if output.image and not output.image_push_secret:
        message = "pushing an image needs the Secret with the registry's credentials"
        yield FieldError(f"{path}.imagePushSecret", message, "Required")
    yield from _secret(f"{path}.imagePushSecret", output.image_push_secret)


def _data_source(path: str, source: DataSource) -> Iterator[FieldError]:
    if sum((bool(source.urls), source.image is not None, source.volume_source is not None)) != 1:
        yield FieldError(path, workspace.ONE_SOURCE)
    if source.volume_source is not None:
        yield FieldError(f"{path}.volumeSource", workspace.NO_VOLUME, "Forbidden")
    yield from _image(f"{path}.image", source.image, workspace.IMAGE_PATTERN, workspace.IMAGE_FORM)
    yield from _secrets(f"{path}.imagePullSecrets", source.image_pull_secrets)


def _image(path: str, image: str | None, pattern: str, form: str) -> Iterator[FieldError]:
    if image is None:
        return
    if PLACEHOLDER in image:
        yield FieldError(path, f"{image!r} {workspace.PLACEHOLDER_IMAGE}")
    elif not re.fullmatch(pattern, image):
        yield FieldError(path, f"{image!r} {form}")


def _secrets(path: str, names: tuple[str, ...] | None) -> Iterator[FieldError]:
    for index, name in enumerate(names or ()):
        yield from _secret(f"{path}[{index}]", name)


def _secret(path: str, name: str | None) -> Iterator[FieldError]:
    if name is None:
        return
    if PLACEHOLDER in name:
        yield FieldError(path, f"{name!r} {workspace.PLACEHOLDER_SECRET}")
    elif not re.fullmatch(workspace.SECRET_NAME_PATTERN, name):
        yield FieldError(path, f"{name!r} {workspace.SECRET_FORM}")


def _preset_of(obj: Workspace) -> PresetSpec | None:
    if obj.inference is not None:
        return obj.inference.preset
    return obj.tuning.preset if obj.tuning is not None else None


def _changes(new: Workspace, old: Workspace) -> Iterator[FieldError]:
    """Changes that are not possible; the field's absence before and after is no change."""
    for path, present in (("inference", _inference_of), ("tuning", _tuning_of)):
        if (present(new) is None) != (present(old) is None):
            yield FieldError(path, f"{path} cannot be added or removed; {_ANEW}", "Forbidden")
    for path, value in _IMMUTABLE.items():
        if value(new) != value(old):
            yield FieldError(path, f"cannot be changed; {_ANEW}", "Forbidden")


_ANEW = "make a new Workspace instead"


def _inference_of(obj: Workspace) -> InferenceSpec | None:
    return obj.inference


def _tuning_of(obj: Workspace) -> TuningSpec | None:
    return obj.tuning


_IMMUTABLE: Mapping[str, Callable[[Workspace], Any]] = {
    "resource.count": lambda obj: obj.resource.count,
    "resource.instanceType": lambda obj: obj.resource.instance_type,
    "resource.labelSelector": lambda obj: obj.resource.label_selector and obj.resource.label_selector.as_labels(),
    "inference.preset": lambda obj: obj.inference and obj.inference.preset,
    "tuning.preset": lambda obj: obj.tuning and obj.tuning.preset,
    "tuning.method": lambda obj: obj.tuning and obj.tuning.method.lower(),
    "tuning.input.name": lambda obj: obj.tuning and obj.tuning.input and obj.tuning.input.name,
}
