"""How the Workspace controller is set up, by the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast, get_args

from kaito.api.validation import Policy
from kaito.models import CLOUDS, ENGINES, Catalogue
from kaito.runtime import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_REGISTRY = "mcr.microsoft.com/aks/kaito"

Source = Literal["machine", "nodeclaim", "byo"]
Upgrades = Literal["never", "on-change", "rolling"]

NODE_SOURCE = "KAITO_NODE_SOURCE"
RUNTIME_IMAGE = "KAITO_RUNTIME_IMAGE"
RUNTIMES = (*ENGINES, "tuning")
"""What there are images of kaito's own for."""
NODE_GRACE = "KAITO_WORKSPACE_NODE_GRACE_SECONDS"
UPGRADE_WORKLOADS = "KAITO_UPGRADE_WORKLOADS"
PRIVATE_URLS = "KAITO_ALLOW_PRIVATE_URLS"
MODELS_FILE = "KAITO_MODELS_FILE"


@dataclass(frozen=True, slots=True)
class Settings:
    registry: str = DEFAULT_REGISTRY
    """Registry and path of the public preset images (``PRESET_REGISTRY_NAME``)."""
    cloud: str = "azure"
    """Whose instance types Workspaces name (``CLOUD_PROVIDER``): azure, aws or arc."""
    source: Source = "machine"
    """What nodes are asked for with (``KAITO_NODE_SOURCE``): machine, nodeclaim, or byo, for which nodes that exist are all
    there is."""
    runtime_images: Mapping[str, str] = field(default_factory=dict)
    """Images of kaito's own model server, by engine, and of its tuner (``KAITO_RUNTIME_IMAGE``); {engine} in it stands for the
    engine, or tuning. Instead of it KAITO_RUNTIME_IMAGE_TRANSFORMERS, _VLLM, _OPENVINO and _TUNING name one each, as digests
    need it. Empty: there are none."""
    node_grace: float = 300.0
    """Seconds that a node may be not Ready before another one is asked for (``KAITO_WORKSPACE_NODE_GRACE_SECONDS``)."""
    upgrades: Upgrades = "on-change"
    """When a running workload becomes what this operator would make today (``KAITO_UPGRADE_WORKLOADS``): never, on-change or
    rolling."""
    private_urls: bool = False
    """Whether training data may come from addresses inside the cluster's own network (``KAITO_ALLOW_PRIVATE_URLS``)."""
    models_file: str = ""
    """File with models beside those of the catalogue (``KAITO_MODELS_FILE``); empty for none."""

    @property
    def policy(self) -> Policy:
        return Policy(
            cloud=self.cloud,
            makes_nodes=self.source != "byo",
            own_image=bool(self.runtime_images),
            private_urls=self.private_urls,
        )

    def catalogue(self) -> Catalogue:
        """The catalogue with the models of the installation's own. Raises ConfigError."""
        if not self.models_file:
            return Catalogue.default()
        try:
            return Catalogue.with_models(self.models_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{MODELS_FILE}: {error}") from error

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Settings:
        """Raises ConfigError, which names the variable, for a value that cannot work."""
        defaults = Settings()
        return Settings(
            registry=(environ.get("PRESET_REGISTRY_NAME") or DEFAULT_REGISTRY).rstrip("/"),
            cloud=_one_of(environ, "CLOUD_PROVIDER", CLOUDS, defaults.cloud),
            source=cast("Source", _one_of(environ, NODE_SOURCE, get_args(Source), defaults.source)),
            runtime_images=_runtime_images(environ),
            node_grace=_seconds(environ, NODE_GRACE, defaults.node_grace),
            upgrades=cast("Upgrades", _one_of(environ, UPGRADE_WORKLOADS, get_args(Upgrades), defaults.upgrades)),
            private_urls=_one_of(environ, PRIVATE_URLS, ("true", "false"), "false") == "true",
            models_file=environ.get(MODELS_FILE, ""),
        )


def images_of(template: str) -> dict[str, str]:
    """The images that ``template`` stands for."""
    return {runtime: template.replace("{engine}", runtime) for runtime in RUNTIMES}


def _runtime_images(environ: Mapping[str, str]) -> dict[str, str]:
    template = environ.get(RUNTIME_IMAGE)
    names = {runtime: f"{RUNTIME_IMAGE}_{runtime.upper()}" for runtime in RUNTIMES}
    given = {runtime: image for runtime, name in names.items() if (image := environ.get(name))}
    if template and given:
        raise ConfigError(f"{RUNTIME_IMAGE} and {names[next(iter(given))]} are both set; leave one of them out")
    if given and (missing := [name for runtime, name in names.items() if runtime not in given]):
        raise ConfigError(f"{names[next(iter(given))]} is set without {', '.join(missing)}; they go together")
    return images_of(template) if template else given


def _one_of(environ: Mapping[str, str], name: str, values: tuple[str, ...], default: str) -> str:
    value = environ.get(name) or default
    if value not in values:
        raise ConfigError(f"{name} is {value!r}; it must be one of: {', '.join(values)}")
    return value


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{name} is {text!r}; it must be a number of seconds")
    return value
