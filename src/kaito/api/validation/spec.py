"""What the parts of a Workspace must satisfy, whatever became of it before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kaito.api import workspace
from kaito.api.validation.addresses import is_private
from kaito.api.validation.facts import FieldError
from kaito.api.validation.resource import resource_errors
from kaito.api.workspace import MAX_ADAPTERS, PLACEHOLDERS, TUNING_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kaito.api.validation.facts import Catalogue, Policy
    from kaito.api.workspace import AdapterSpec, DataSource, InferenceSpec, PresetSpec, TuningSpec, Workspace


def spec_errors(obj: Workspace, catalogue: Catalogue, policy: Policy) -> Iterator[FieldError]:
    """Everything that is wrong with the specification, but for what only the catalogue's arithmetic can tell."""
    name = obj.metadata.name
    if name and (len(name) > 63 or not re.fullmatch(workspace.NAME_PATTERN, name)):
        yield FieldError("metadata.name", workspace.NAME_FORM)
    if obj.inference is None and obj.tuning is None:
        yield FieldError("inference", "one of inference and tuning is needed", "Required")
    if obj.inference is not None and obj.tuning is not None:
        yield FieldError("tuning", "inference and tuning exclude each other: remove one", "Forbidden")
    yield from resource_errors(obj, catalogue, policy)
    if obj.inference is not None:
        yield from _inference(obj, obj.inference, catalogue)
    if obj.tuning is not None:
        yield from _tuning(obj.tuning, catalogue, policy)


def _inference(obj: Workspace, inference: InferenceSpec, catalogue: Catalogue) -> Iterator[FieldError]:
    if inference.preset is None and inference.template is None:
        yield FieldError("inference.preset", "one of preset and template is needed", "Required")
    if inference.preset is not None and inference.template is not None:
        yield FieldError("inference.template", "preset and template exclude each other: remove one", "Forbidden")
    if inference.preset is not None:
        yield from _preset("inference.preset", inference.preset, catalogue)
    if inference.template is not None:
        yield from _template("inference.template", inference.template)
    yield from _config_map("inference.config", inference.config)
    if inference.config and inference.preset is None:
        yield FieldError("inference.config", "a template brings its own configuration: remove config", "Forbidden")
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
        if name and name == obj.metadata.name:
            yield FieldError(
                f"{path}[{index}].source.name",
                f"the container of the model server is named {name!r}, as the Workspace: choose another name",
            )


def _adapter(path: str, adapter: AdapterSpec) -> Iterator[FieldError]:
    source = adapter.source
    if source is None:
        yield FieldError(f"{path}.source", "name and image (or volume) of the adapter are needed", "Required")
    else:
        if not source.name:
            yield FieldError(f"{path}.source.name", "an adapter needs a name", "Required")
        elif len(source.name) > 63 or not re.fullmatch(workspace.NAME_PATTERN, source.name):
            yield FieldError(f"{path}.source.name", workspace.ADAPTER_NAME_FORM)
        if source.urls or (source.image is None) == (source.volume_source is None):
            yield FieldError(f"{path}.source", workspace.ADAPTER_SOURCE)
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
    yield from _secret(f"{path}.presetOptions.modelAccessSecret", options.model_access_secret)


def _tunable(catalogue: Catalogue, name: str) -> bool:
    facts = catalogue.preset(name)
    return facts is not None and facts.tuning is not None


def _tuning(tuning: TuningSpec, catalogue: Catalogue, policy: Policy) -> Iterator[FieldError]:
    if tuning.preset is None:
        yield FieldError("tuning.preset", "the model to tune is needed", "Required")
    else:
        yield from _preset("tuning.preset", tuning.preset, catalogue, tuning=True)
    if tuning.method.lower() not in TUNING_METHODS:
        yield FieldError("tuning.method", "must be lora or qlora")
    yield from _config_map("tuning.config", tuning.config)
    if tuning.input is None:
        yield FieldError("tuning.input", "the training data is needed", "Required")
    else:
        yield from _data_source("tuning.input", tuning.input, policy)
    output, path = tuning.output, "tuning.output"
    if output is None:
        yield FieldError(path, "the place for the result is needed", "Required")
        return
    if bool(output.image) == (output.volume_source is not None):
        yield FieldError(f"{path}.image", workspace.ONE_DESTINATION, "Invalid" if output.image else "Required")
    yield from _image(f"{path}.image", output.image, workspace.OUTPUT_IMAGE_PATTERN, workspace.OUTPUT_IMAGE_FORM)
    if output.image and not output.image_push_secret:
        message = "pushing an image needs the Secret with the registry's credentials"
        yield FieldError(f"{path}.imagePushSecret", message, "Required")
    yield from _secret(f"{path}.imagePushSecret", output.image_push_secret)


def _data_source(path: str, source: DataSource, policy: Policy) -> Iterator[FieldError]:
    if sum((bool(source.urls), source.image is not None, source.volume_source is not None)) != 1:
        yield FieldError(path, workspace.ONE_SOURCE)
    for index, url in enumerate(source.urls or ()):
        yield from _url(f"{path}.urls[{index}]", url, policy)
    yield from _image(f"{path}.image", source.image, workspace.IMAGE_PATTERN, workspace.IMAGE_FORM)
    yield from _secrets(f"{path}.imagePullSecrets", source.image_pull_secrets)


def _url(path: str, url: str, policy: Policy) -> Iterator[FieldError]:
    if _is_placeholder(url):
        yield FieldError(path, f"{url!r} {workspace.PLACEHOLDER_URL}")
        return
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = None, ""
    if parts is None or parts.scheme not in ("http", "https") or not host:
        yield FieldError(path, f"{url!r} {workspace.URL_FORM}")
    elif is_private(host) and not policy.private_urls:
        yield FieldError(
            path, f"{host} is an address inside the cluster's own network: data is loaded from outside only"
        )


def _template(path: str, template: Mapping[str, Any]) -> Iterator[FieldError]:
    """What the API server would accept and a user cannot have meant, or would only refuse after a node was made."""
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(containers, list) or not containers:
        yield FieldError(f"{path}.spec.containers", "a pod template needs at least one container", "Required")
        return
    for kind in ("initContainers", "containers"):
        listed = spec.get(kind)
        for index, container in enumerate(listed if isinstance(listed, list) else ()):
            image = container.get("image") if isinstance(container, Mapping) else None
            if isinstance(image, str) and _is_placeholder(image):
                yield FieldError(f"{path}.spec.{kind}[{index}].image", f"{image!r} {workspace.PLACEHOLDER_IMAGE}")


def _config_map(path: str, name: str | None) -> Iterator[FieldError]:
    if name and not re.fullmatch(workspace.SECRET_NAME_PATTERN, name):
        yield FieldError(path, f"{name!r} {workspace.CONFIG_FORM}")


def _is_placeholder(text: str) -> bool:
    return any(mark in text for mark in PLACEHOLDERS)


def _image(path: str, image: str | None, pattern: str, form: str) -> Iterator[FieldError]:
    if image is None:
        return
    if _is_placeholder(image):
        yield FieldError(path, f"{image!r} {workspace.PLACEHOLDER_IMAGE}")
    elif not re.fullmatch(pattern, image):
        yield FieldError(path, f"{image!r} {form}")


def _secrets(path: str, names: tuple[str, ...] | None) -> Iterator[FieldError]:
    for index, name in enumerate(names or ()):
        yield from _secret(f"{path}[{index}]", name)


def _secret(path: str, name: str | None) -> Iterator[FieldError]:
    if name is None:
        return
    if _is_placeholder(name):
        yield FieldError(path, f"{name!r} {workspace.PLACEHOLDER_SECRET}")
    elif not re.fullmatch(workspace.SECRET_NAME_PATTERN, name):
        yield FieldError(path, f"{name!r} {workspace.SECRET_FORM}")
