"""What follows from a Workspace, the catalogue and the operator's settings: sizes, counts, what is rendered. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kaito.api import labels
from kaito.controllers.workspace import facts
from kaito.controllers.workspace.claims import Need
from kaito.controllers.workspace.manifests.job import build_config, build_job
from kaito.controllers.workspace.manifests.pod import Rendering, tolerations
from kaito.controllers.workspace.manifests.service import build_service
from kaito.controllers.workspace.manifests.workload import build_services, build_workload
from kaito.controllers.workspace.orders import SOURCES
from kaito.models import Sku, TuningSettings, choose, sku_of_node, tuning_fit
from kaito.runtime import LabelSelector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.api.workspace import PresetSpec, Workspace
    from kaito.controllers.workspace.orders import NodeSource
    from kaito.controllers.workspace.settings import Settings
    from kaito.models import Catalogue, Fit, Preset, Serving
    from kaito.runtime import Manifest


class _Known(NamedTuple):
    nodes: tuple[Manifest, ...]
    config: Mapping[str, Any]
    serving: Serving | None


@dataclass(slots=True, kw_only=True)
class Sizing:
    workspace: Workspace
    catalogue: Catalogue
    settings: Settings
    revision: int = 0
    """Number of the revision of this specification."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the ConfigMap holds that the Workspace names."""
    config_hash: str = ""
    nodes: tuple[Manifest, ...] = ()
    """The Nodes that the workload runs on."""
    _known: _Known | None = field(default=None, init=False, repr=False)

    @property
    def source(self) -> NodeSource | None:
        """What nodes are asked for with; None where they are not."""
        return SOURCES[self.settings.source]

    @property
    def name(self) -> str:
        return self.workspace.metadata.name

    @property
    def namespace(self) -> str:
        return self.workspace.metadata.namespace

    @property
    def preset_spec(self) -> PresetSpec | None:
        workspace = self.workspace
        if workspace.inference is not None:
            return workspace.inference.preset
        return workspace.tuning.preset if workspace.tuning is not None else None

    @property
    def preset(self) -> Preset | None:
        """The preset that the Workspace serves or tunes, if it is one that exists."""
        spec = self.preset_spec
        return self.catalogue.preset(spec.name) if spec is not None else None

    @property
    def size(self) -> str:
        """The instance type; empty where nodes are not made, whatever the Workspace says."""
        return self.workspace.resource.instance_type if self.source is not None else ""

    @property
    def sku(self) -> Sku | None:
        """What is known of the nodes' GPUs: of the instance type, or of the first node that it runs on."""
        known = self.catalogue.sku(self.settings.cloud, self.size) if self.size else None
        if known is None and self.nodes:
            node = self.nodes[0]
            return sku_of_node(facts.name_of(node), facts.labels_of(node), facts.gpus(node))
        return known

    @property
    def bypassed(self) -> bool:
        """Whether the user has asked to try what does not fit by the arithmetic."""
        return self.workspace.metadata.annotation(labels.BYPASS_RESOURCE_CHECKS) is not None

    @property
    def serving(self) -> Serving | None:
        """How the preset is served; None for a template and for tuning. Asked for often, and worked out once for what is
        known of nodes and configuration."""
        known = self._known
        if known is None or known.nodes is not self.nodes or known.config is not self.config:
            known = self._known = _Known(self.nodes, self.config, self._choose())
        return known.serving

    def _choose(self) -> Serving | None:
        spec, preset = self.preset_spec, self.preset
        if spec is None or preset is None or self.workspace.tuning is not None:
            return None
        return choose(
            preset,
            self.size,
            self.sku,
            count=self.workspace.resource.count,
            wanted=self.workspace.metadata.annotation(labels.RUNTIME) or "",
            private=spec.access_mode == "private",
            own_image=bool(self.settings.runtime_images),
            adapters=bool(self.workspace.inference and self.workspace.inference.adapters),
            max_length=_max_length(self.config),
        )

    @property
    def target(self) -> int:
        """How many nodes the workload needs."""
        serving = self.serving
        return serving.fit.nodes if serving is not None else max(1, self.workspace.resource.count)

    @property
    def need(self) -> Need:
        """What the Workspace wants of a Node."""
        resource = self.workspace.resource
        inference, selector = self.workspace.inference, resource.label_selector
        template = (inference and inference.template) or {}
        return Need(
            namespace=self.namespace,
            name=self.name,
            selector=LabelSelector.from_object(selector.to_manifest() if selector else {}) or LabelSelector(),
            size=self.size,
            preferred=tuple(resource.preferred_nodes or ()),
            tolerations=tolerations((template.get("spec") or {}).get("tolerations") or ()),
            gpus=self.gpus_wanted,
        )

    @property
    def gpus_wanted(self) -> int | None:
        """GPUs that a pod asks for; None for all of its node's."""
        workspace = self.workspace
        if workspace.inference is not None and workspace.inference.template is not None:
            return facts.pod_gpus(workspace.inference.template.get("spec") or {})
        serving = self.serving
        return 0 if serving is not None and not serving.gpu else None

    def rendering(self) -> Rendering:
        """What the workload is made from, by what is known so far."""
        serving, preset, sku, wanted = self.serving, self.preset, self.sku, self.gpus_wanted
        announced = [gpus for node in self.nodes if (gpus := facts.gpus(node))]
        if wanted is None:
            wanted = min(announced, default=0) or (sku.gpus if sku is not None else 0) or (preset.gpus if preset else 1)
        fit = self.tuning_fit
        processes = wanted if fit is None else min(fit.processes, wanted)
        return Rendering(
            revision=self.revision,
            registry=self.settings.registry,
            own_images=self.settings.runtime_images,
            preset=preset,
            serving=serving,
            nodes=self.target,
            gpus=wanted,
            capability=sku.capability if sku is not None else 0.0,
            config=self.config,
            config_hash=self.config_hash,
            processes=max(1, processes),
        )

    @property
    def tuning_fit(self) -> Fit | None:
        """Whether the model can be tuned on the nodes; None where there is no tuning, or nothing is known of the size."""
        tuning, preset, sku = self.workspace.tuning, self.preset, self.sku
        if tuning is None or preset is None or sku is None:
            return None
        return tuning_fit(preset, sku, TuningSettings.of(tuning.method, self.config or None))

    @property
    def disk(self) -> str:
        """Size of a new node's OS disk; ``0`` for the cloud's default."""
        preset = self.preset
        if preset is None:
            return "0"
        if self.workspace.tuning is not None and preset.tuning is not None:
            return str(preset.tuning.disk)
        return str(preset.disk)

    def services(self) -> list[Manifest]:
        if self.workspace.tuning is not None:
            return [build_service(self.workspace)]
        return build_services(self.workspace, self.rendering())

    def workload(self) -> Manifest:
        """The Deployment, StatefulSet or Job. The Workspace is one that validation lets pass."""
        tuning = self.workspace.tuning
        if tuning is None:
            return build_workload(self.workspace, self.rendering())
        spec, preset = self.preset_spec, self.preset
        assert spec is not None, "validation has seen a preset"
        assert preset is not None, "validation has seen a preset of the catalogue"
        return build_job(self.workspace, tuning, spec, preset, self.rendering())

    def config_map(self) -> Manifest | None:
        """The ConfigMap with the standard settings of a tuning method; None where the Workspace names its own."""
        tuning = self.workspace.tuning
        return build_config(self.workspace, tuning) if tuning is not None and not tuning.config else None


def _max_length(config: Mapping[str, Any]) -> int:
    """``vllm.max-model-len`` of an inference configuration, also with underscores; 0 where it does not say."""
    section = config.get("vllm")
    flags = {str(name).replace("_", "-"): value for name, value in section.items()} if isinstance(section, dict) else {}
    value = flags.get("max-model-len")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
